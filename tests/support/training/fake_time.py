"""Clocks that tests move, so that no test depends on how fast the machine is."""

import threading
from dataclasses import replace

import pytest
import torch

from profiles.recording.device import Instruments, instruments_for
from runtime.lanes import emulated as lanes

NS_PER_S = 1e9
MOST_HELD_S = 300
"""After so long time passes all the same: a lane that the test never lets go on fails its test,
and does not hold it for ever."""


class HeldTime:
    """The `time` of lanes, which passes only while one of them sleeps.

    A lane that is to sleep does so once the test lets time pass, and not before: until then its
    copy is in flight, however long the test takes over what it does meanwhile.
    """

    def __init__(self) -> None:
        self.now_ns = 0
        self.sleeps = 0
        self._lock = threading.Lock()
        self._passing = threading.Event()

    def pass_on(self) -> None:
        """Lets time pass from now on."""
        self._passing.set()

    def perf_counter_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self._passing.wait(MOST_HELD_S)
        with self._lock:
            self.sleeps += 1
            self.now_ns += round(seconds * NS_PER_S)


def held_time(monkeypatch: pytest.MonkeyPatch) -> HeldTime:
    """Has all lanes of a test live in time that the test lets pass."""
    held = HeldTime()
    monkeypatch.setattr(lanes, "time", held)
    return held


class CountingClock:
    """A clock for recording, on which intervals take 1, 2, ... 7 us and then 1 again."""

    def __init__(self) -> None:
        self._stamps = 0

    def start(self) -> None:
        self._stamps = 0

    def stamp(self) -> None:
        self._stamps += 1

    def intervals_us(self) -> list[float]:
        return [1.0 + number % 7 for number in range(self._stamps - 1)]


def counting_tools() -> Instruments:
    """What measures memory as the default device has it, and times by a clock of its own."""
    measures = instruments_for(torch.get_default_device())
    return replace(measures, clock=CountingClock(), kernels=None)


class DoublingClock(CountingClock):
    """A clock on which each step takes twice as long as the one before."""

    def __init__(self) -> None:
        super().__init__()
        self._rounds = 0

    def intervals_us(self) -> list[float]:
        self._rounds += 1
        return [2.0**self._rounds for _ in super().intervals_us()]
