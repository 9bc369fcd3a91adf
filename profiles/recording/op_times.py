"""The time of each op on its own, for steps that cannot be timed in one piece."""

from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from profiles.hooks.dispatch import is_bookkeeping, is_taken_apart
from profiles.recording.clocks import Clock


class OpTimes(TorchDispatchMode):
    """Stamps a clock before and after each op.

    Enter it before every other dispatch mode: the first one entered is the last one asked, so
    nothing but the op itself runs between its stamps.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._stamps = 0
        self._begins: list[int] = []
        clock.start()

    def __len__(self) -> int:
        """Ops timed so far."""
        return len(self._begins)

    def rewind(self, ops: int) -> None:
        """Forgets all ops but the first so many: they have to run again."""
        del self._begins[ops:]

    def durations_us(self) -> tuple[float, ...]:
        """Returns the time of each op, once the device is done."""
        intervals_us = self._clock.intervals_us()
        return tuple(intervals_us[begin] for begin in self._begins)

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if is_taken_apart(types, args, kwargs):
            return NotImplemented
        kwargs = kwargs or {}
        if is_bookkeeping(func):
            return func(*args, **kwargs)
        begin = self._stamp()
        result = func(*args, **kwargs)
        self._stamp()
        # An op that fails has no time; its stamp stays and is passed over.
        self._begins.append(begin)
        return result

    def _stamp(self) -> int:
        self._clock.stamp()
        self._stamps += 1
        return self._stamps - 1
