"""All that is to be seen on the asynchronous device: `python -m tests.device.acceptance`.

1. Every built-in workload at 60%, 40% and the smallest budget, over 6 steps.
2. 200 random steps under random plans, over random links, with random delays.
3. What notices each mutation of `tests.device.mutations`.
4. Steps that stall over slow links: their time against the simulated one, and for how much of the
   copies' time compute is busy, by the device's log. On a machine that does nothing else.

`--workloads` and `--random` choose some of it. Tables go to the terminal, as Markdown; bytes,
counts and times are measured unless they say otherwise. Exit code 1 if 1 to 3 were not all right.
"""

import argparse
import sys
import warnings
from collections.abc import Iterable, Sequence

import torch

from runtime.replay.statistics import FallbackWarning
from tests.device.accelerator import accelerator
from tests.device.built_in import WORKLOADS, replay_built_in
from tests.device.mutations import MUTATIONS, noticed_faults
from tests.device.random_steps import Outcome, try_random_step
from tests.device.stalls import stalling_step

SHARES = (0.6, 0.4, 0.0)
STEPS = 6
SOLVE_SECONDS = 3.0
RANDOM_STEPS = 200
SEED = 2
STALLING_BYTES_PER_US = (1000.0, 300.0, 100.0)


def workloads(names: Iterable[str]) -> bool:
    """Trains built-in workloads; returns whether all was right."""
    _print("workload", "share", "budget", "peak", "swaps", "rebuilds", "what is wrong")
    rights = []
    for name in names:
        for row in replay_built_in(name, SHARES, steps=STEPS, time_limit_s=SOLVE_SECONDS):
            share = f"{row.share:.0%}" if row.share else "smallest"
            sizes = (f"{size_bytes:,}" for size_bytes in (row.budget_bytes, row.peak_bytes))
            wrong = "; ".join(row.faults) or "nothing"
            _print(name, share, *sizes, row.swaps, row.rebuilds, wrong)
            rights.append(not row.faults)
    return all(rights)


def random_steps(count: int, *, in_pages: bool) -> bool:
    """Trains random steps; returns whether all was right."""
    outcomes = [try_random_step(seed, in_pages=in_pages) for seed in range(count)]
    wrong = [outcome for outcome in outcomes if outcome.faults]
    where = ", free memory in pieces" if in_pages else ""
    print(f"\n{count} random steps{where}, {len(wrong)} with a fault:", *wrong, sep="\n")
    _print(
        "plan",
        "random steps",
        "swaps",
        "rebuilds",
        "trained steps that left it",
        "skipped an update",
    )
    for name in sorted({outcome.plan for outcome in outcomes}):
        of_it = [outcome for outcome in outcomes if outcome.plan == name]
        _print(name, len(of_it), *_sums(of_it))
    return not wrong


def _sums(outcomes: Sequence[Outcome]) -> tuple[int, ...]:
    figures = ((o.swaps, o.rebuilds, o.left_plan, o.shortcuts) for o in outcomes)
    return tuple(map(sum, zip(*figures, strict=True)))


def mutations() -> bool:
    """Takes each wait out in turn; returns whether all were noticed."""
    _print("taken out", "scenario", "noticed by")
    noticed = []
    for name, mutation in MUTATIONS.items():
        found = noticed_faults(mutation, SEED)
        _print(name, mutation.seen_in, found[-1] if found else "nothing")
        noticed.append(bool(found))
    return all(noticed)


def stalls() -> None:
    """Compares steps that stall with the simulation of their plans."""
    _print(
        *("link", "step", "without the plan, in turns", "added (simulated)", "ratio"),
        *("without it now / when recorded", "copies beside compute"),
    )
    for bytes_per_us in STALLING_BYTES_PER_US:
        row = stalling_step(bytes_per_us)
        _print(
            f"{bytes_per_us:.0f} MB/s",
            f"{row.step_us / 1000:.1f} ms",
            f"{row.resident_us / 1000:.1f} ms",
            f"{row.added_us / 1000:.1f} ms",
            f"{row.ratio:.3f}",
            f"{row.resident_us / row.profiled_us:.3f}",
            f"{row.beside_compute:.0%}",
        )


def _print(*cells: object) -> None:
    print("|", " | ".join(map(str, cells)), "|", flush=True)


def main(words: Sequence[str]) -> int:
    """Does all or some of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--random", type=int, default=RANDOM_STEPS)
    asked = parser.parse_args(words)
    accelerator()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)
        rights = [workloads(filter(None, asked.workloads.split(",")))]
        rights += [random_steps(asked.random, in_pages=in_pages) for in_pages in (False, True)]
    rights.append(mutations())
    stalls()
    return 0 if all(rights) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
