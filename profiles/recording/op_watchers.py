"""What each op takes on its own, for steps that cannot be measured in one piece."""

from typing import Any

from torch._ops import OpOverload

from profiles.hooks.dispatch import OpMode
from profiles.recording.allocator_peaks import MemoryMeter
from profiles.recording.clocks import Clock


class OpWatcher(OpMode):
    """A dispatch mode that notes one number of each op that succeeds."""

    def __init__(self) -> None:
        super().__init__()
        self._noted: list[int] = []

    def __len__(self) -> int:
        """Ops noted so far."""
        return len(self._noted)

    def rewind(self, ops: int) -> None:
        """Forgets all ops but the first so many: they have to run again."""
        del self._noted[ops:]


class OpTimes(OpWatcher):
    """Stamps a clock before and after each op.

    Enter it before every other dispatch mode: the first one entered is the last one asked, so
    nothing but the op itself runs between its stamps.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._stamps = 0
        clock.start()

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Notes the number of an op's first stamp; one that fails leaves a stamp with no note."""
        begin = self._stamps
        self._stamp()
        result = func(*args, **kwargs)
        self._stamp()
        self._noted.append(begin)
        return result

    def durations_us(self) -> tuple[float, ...]:
        """Returns the time of each op, once the device is done."""
        intervals_us = self._clock.intervals_us()
        return tuple(intervals_us[begin] for begin in self._noted)

    def _stamp(self) -> None:
        self._clock.stamp()
        self._stamps += 1


class OpWorkspaces(OpWatcher):
    """Reads the allocator's peak around each op."""

    def __init__(self, meter: MemoryMeter) -> None:
        super().__init__()
        self._meter = meter

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Notes what an op took meanwhile: the peak above what there is before and after it."""
        self._meter.reset_peak()
        before_bytes = self._meter.allocated_bytes()
        result = func(*args, **kwargs)
        kept_bytes = max(before_bytes, self._meter.allocated_bytes())
        self._noted.append(self._meter.peak_bytes() - kept_bytes)
        return result

    def sizes_bytes(self) -> tuple[int, ...]:
        """Returns the workspace of each op."""
        return tuple(self._noted)
