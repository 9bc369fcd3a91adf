"""What only a GPU can show, in one command and one folder: `make gpu-check`.

    python -m tests.gpu.check [--minutes 8]

1. `small.json`: what the tests try on the asynchronous device at every run (`tests.device`).
2. `tests.xml`: the tests marked `gpu`: kernels exact, streams in order with widened races, the
   recorder and the link on the device.
3. `kernels.json`: rates of the kernels against the copy engine, by size and grid.
4. `estimates.json`: estimated against measured times, by class of op.
5. `training.json`: built-in workloads, bit-equal with and without a plan, peaks against the budget
   that the device enforces, and the simulated against the measured step.
6. `bench.json`: the same budget for a plan, for three baselines and for nothing
   (`tests.benchmarks.bench_gpu`).

Each has a table beside it (`.md`). After the given minutes the part under way is stopped and the
others are left out, with a word; what is written by then stays.

Exit code 0 if all passed, 1 if not, 0 with one line where there is no GPU.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from profiles.recording.device import device_at_hand
from profiles.schema.profile import CUDA
from profiles.schema.units import size_text, time_text
from tests.benchmarks.bench_gpu import FULL, bench
from tests.benchmarks.bench_kernels import DeviceRate, device_rates
from tests.gpu.bench_device import BenchAccelerator, BenchDevice
from tests.gpu.cases import CHECKED, Case
from tests.gpu.estimates import accelerator_at_hand, compare_estimates
from tests.gpu.results import ROOT, Results, Table
from tests.gpu.small_trainings import try_small_trainings
from tests.gpu.training_check import TrainingCheck, check_training

TIMED_STEPS = 5
MINUTES = 8.0
PASSED = "passed"
COLUMNS = (
    "workload",
    "numbers",
    "fell back",
    "budget",
    "peak",
    "reserved",
    "budget enforced",
    "step without",
    "step",
    "simulated",
    "measured / simulated",
)


def check_all(
    limited: BenchDevice, cases: Sequence[Case], results: Results, timed_steps: int = TIMED_STEPS
) -> bool:
    """Checks the training of some workloads; returns whether all passed."""
    link = limited.link()
    checks: list[TrainingCheck] = []
    for case in cases:
        print(f"{case.title} ...", file=sys.stderr)
        checks.append(check_training(case, limited, link, timed_steps))
        limited.tidy()
        title = f"Training on {limited.describe()['device']} (measured; simulated where it says so)"
        table = Table(title, COLUMNS, [_cells(check) for check in checks])
        # Written after each workload: what an interruption leaves is worth having.
        results.write("training", checks, [table])
    return all(check.passed for check in checks)


def _cells(check: TrainingCheck) -> tuple[str, ...]:
    return (
        check.workload,
        _numbers(check),
        f"{check.fallbacks} of {check.steps}",
        size_text(check.budget_bytes),
        size_text(check.peak_bytes),
        "" if check.reserved_bytes is None else size_text(check.reserved_bytes),
        "yes" if check.enforced else f"no: {check.out_of_memory}",
        time_text(check.step_without_us),
        time_text(check.step_us),
        time_text(check.step_simulated_us),
        f"{check.step_ratio:.3f}",
    )


def _numbers(check: TrainingCheck) -> str:
    if not check.repeats:
        return "differ from run to run without a plan, too"
    if check.losses_equal and check.tensors_equal:
        return f"{check.tensors_compared} tensors bit-equal"
    return "DIFFERENT"


def rates_table(rates: Sequence[DeviceRate]) -> Table:
    """Returns the kernels' rates for readers, each with its best grid."""
    columns = (
        "copy",
        "direction",
        "storages",
        "bytes of each",
        "engine",
        "kernel",
        "grid",
        "ratio",
    )
    return Table("Kernels against the copy engine, GB/s (measured)", columns, [*map(_rate, rates)])


def _rate(rate: DeviceRate) -> tuple[str, ...]:
    grid, kernel_gb_per_s = rate.best()
    return (
        rate.copy,
        rate.direction,
        str(rate.storages),
        str(rate.size_bytes),
        f"{rate.engine_gb_per_s:.2f}",
        f"{kernel_gb_per_s:.2f}",
        grid,
        f"{kernel_gb_per_s / rate.engine_gb_per_s:.2f}",
    )


def run_tests(folder: Path) -> bool:
    """Runs the tests marked `gpu` in a process of their own; returns whether they passed."""
    words = ["-m", "pytest", "-m", "gpu", "-q", "-rs", f"--junitxml={folder / 'tests.xml'}"]
    return subprocess.run([sys.executable, *words]).returncode == 0


def repeatable() -> None:
    """Has torch choose algorithms that give the same bits every time, where it has them."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)


@dataclass(frozen=True)
class Part:
    """One part of the check.

    Attributes:
        name: What it checks, for readers.
        run: Runs it; returns whether all was right.
    """

    name: str
    run: Callable[[], bool]


def parts_on(limited: BenchDevice, results: Results) -> tuple[Part, ...]:
    """Returns all parts, in the order in which they are worth having."""
    return (
        Part("small trainings", lambda: try_small_trainings(results)),
        Part("tests", lambda: run_tests(results.folder)),
        Part("kernels", lambda: _rates(results)),
        Part("estimates", lambda: _estimates(limited, results)),
        Part("training", lambda: check_all(limited, CHECKED, results)),
        Part("comparison", lambda: _comparison(limited)),
    )


def _rates(results: Results) -> bool:
    rates = device_rates()
    results.write("kernels", rates, [rates_table(rates)])
    return True


def _estimates(limited: BenchDevice, results: Results) -> bool:
    accelerator = accelerator_at_hand(limited)
    if accelerator is None:
        print(f"No figures of {limited.describe()['device']} are known to estimate from.")
        return True
    compare_estimates(limited, CHECKED, accelerator, results)
    return True


def _comparison(limited: BenchDevice) -> bool:
    bench(limited, FULL)
    return True


class TimeIsUpError(KeyboardInterrupt):
    """The check has taken as long as it may; it ends what it meets as Ctrl-C does."""


@contextmanager
def stopped_after(limit_s: float) -> Iterator[None]:
    """Raises in what is run inside once it has taken that long.

    Raises:
        TimeIsUpError: It has.
    """

    def stop(*_: object) -> None:
        raise TimeIsUpError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_parts(parts: Sequence[Part], limit_s: float, clock: Callable[[], float]) -> bool:
    """Runs parts until a time is over; returns whether all were run and right."""
    begun_s, passed = clock(), True
    for part in parts:
        left_s = begun_s + limit_s - clock()
        if left_s <= 0:
            print(f"Left out for want of time: {part.name}.")
            passed = False
            continue
        verdict = _verdict(part, left_s)
        print(f"{part.name}: {verdict}, after {clock() - begun_s:.0f} s (measured).", flush=True)
        passed = passed and verdict == PASSED
    return passed


def _verdict(part: Part, limit_s: float) -> str:
    try:
        with stopped_after(limit_s):
            return PASSED if part.run() else "FAILED"
    except TimeIsUpError:
        return "stopped for want of time"


def main(words: Sequence[str] = ()) -> int:
    """Checks everything on the GPU at hand."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    asked = parser.parse_args(words)
    if not torch.cuda.is_available():
        print("There is no GPU here: nothing was checked.")
        return 0
    repeatable()
    limited = BenchAccelerator(device_at_hand(CUDA))
    results = Results(limited, ROOT)
    passed = run_parts(parts_on(limited, results), asked.minutes * 60, time.monotonic)
    print(f"GPU check: {'passed' if passed else 'FAILED'}; results in {results.folder}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
