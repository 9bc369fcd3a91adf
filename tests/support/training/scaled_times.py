"""Recordings as other machines would make them: each measured duration times a random factor.

A test that plans from measured times and asserts what is planned fails under some seed of
`pytest --scale-times SEED`; see [Note: no plan from measured times].
"""

import random
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from profiles.recording import trace
from profiles.recording.clocks import CpuClock
from profiles.recording.trace import StepTrace
from tests.benchmarks import cpu_roofline

LEAST, MOST = 0.25, 4.0
INTERVALS, RUN, CALL = CpuClock.intervals_us, StepTrace._run, cpu_roofline._duration_us
"""As they are without any scaling."""


class Factors:
    """One factor for each position of what is timed, the same in every round."""

    def __init__(self, seed: int, what: str) -> None:
        self.of = cache(self._drawn)
        self._seed = f"{seed} {what}"

    def _drawn(self, position: int) -> float:
        drawn = random.Random(f"{self._seed} {position}")
        return float(LEAST * (MOST / LEAST) ** drawn.random())


def scale_times(seed: int, patch: pytest.MonkeyPatch) -> None:
    """Scales what is measured of slots, of ops, and of this machine's CPU; clocks that tests bring
    along are left alone."""
    slots, ops, rates = (Factors(seed, what) for what in ("slot", "op", "rate"))
    patch.setattr(CpuClock, "intervals_us", _scaled_intervals(INTERVALS, slots))
    patch.setattr(StepTrace, "_run", _scaled_ops(RUN, ops))
    patch.setattr(cpu_roofline, "_duration_us", _scaled_calls(CALL, rates))


def _scaled_intervals(
    plain: Callable[[CpuClock], list[float]], factors: Factors
) -> Callable[[CpuClock], list[float]]:
    def intervals_us(clock: CpuClock) -> list[float]:
        return [us * factors.of(position) for position, us in enumerate(plain(clock))]

    return intervals_us


def _scaled_ops(plain: Callable[..., tuple[Any, float]], factors: Factors) -> Callable[..., Any]:
    def run(stepped: StepTrace, *op: Any) -> tuple[Any, float]:
        result, duration_us = plain(stepped, *op)
        if vars(trace)["time"] is not time:
            return result, duration_us
        return result, duration_us * factors.of(len(stepped.ops))

    return run


def _scaled_calls(
    plain: Callable[[Callable[[], object]], float], factors: Factors
) -> Callable[[Callable[[], object]], float]:
    calls = iter(range(1 << 30))

    def duration_us(run: Callable[[], object]) -> float:
        return plain(run) * factors.of(next(calls))

    return duration_us
