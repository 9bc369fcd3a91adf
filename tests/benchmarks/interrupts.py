"""Interrupts trainings under plans at random, many times, and counts what does not hold after.

    python -m tests.benchmarks.interrupts --traced 9000 --timed 1000 --seed 0

Traced ones are raised before random instructions of `runtime` and `profiles`, timed ones by a timer
wherever it goes off. See `tests.support.training.interrupting` for what must hold.
"""

import argparse
import faulthandler
import random
import sys
import time
from collections import Counter

import torch

from tests.support.training.interrupting import (
    PLANS,
    Outcome,
    Timer,
    Tracer,
    duration_s,
    edges,
    interrupt,
    random_tracer,
)

HANGS_AFTER_S = 120
SHOWN = 20
LONGEST = 600


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traced", type=int, default=900)
    parser.add_argument("--timed", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    torch.set_num_threads(1)
    dice = random.Random(settings.seed)
    edges_of = {(n, c): edges(n, closes=c) for n in PLANS for c in (True, False)}
    lengths = {key: found[-1] for key, found in edges_of.items()}
    print(f"instructions of a training, by plan and whether it is closed: {lengths}", flush=True)
    durations_s = {name: duration_s(name) for name in PLANS}
    tally, start_s = Tally(), time.perf_counter()
    for number in range(settings.traced + settings.timed):
        faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
        name, closes = dice.choice(list(PLANS)), dice.random() < 0.7
        interrupter: Tracer | Timer
        if number < settings.traced:
            interrupter = random_tracer(dice, edges_of[name, closes])
        else:
            interrupter = Timer(dice.uniform(0.0001, durations_s[name]))
        try:
            tally.add(interrupt(name, interrupter, closes=closes))
        except BaseException as error:
            tally.broke(f"{name}, {closes=}: {type(error).__name__}: {error}: {interrupter.raised}")
        if not torch.is_grad_enabled():
            tally.broke(f"{name}, {closes=}: no gradients any more: {interrupter.raised}")
            torch.set_grad_enabled(True)
        if number % 500 == 499:
            print(f"{number + 1}: {tally}, {time.perf_counter() - start_s:.0f} s", flush=True)
    faulthandler.cancel_dump_traceback_later()
    print(tally)
    return 1 if tally.faulty else 0


class Tally:
    """What came of all interrupts."""

    def __init__(self) -> None:
        self.faulty = 0
        self._seen: Counter[str] = Counter()
        self._missed = 0

    def add(self, outcome: Outcome) -> None:
        if not outcome.raised:
            self._missed += 1
            if not outcome.faults and not outcome.seen:
                return
        self._seen[outcome.seen or "nothing"] += 1
        if outcome.faults or outcome.seen != "KeyboardInterrupt":
            self.broke(str(outcome))

    def broke(self, what: str) -> None:
        self.faulty += 1
        if self.faulty <= SHOWN:
            print(f"BROKEN {what[:LONGEST]}", file=sys.stderr, flush=True)

    def __str__(self) -> str:
        seen = ", ".join(f"{count} saw {name}" for name, count in self._seen.items())
        return f"{seen}; {self._missed} were over before; {self.faulty} broke something"


if __name__ == "__main__":
    sys.exit(main())
