"""A second try for an op that runs out of memory beside others: alone on the device."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from profiles.hooks.dispatch import (
    OpMode,
    OpWatcher,
    RunOp,
    can_run_twice,
    run_itself,
    storages_in,
)
from profiles.hooks.draws import draw_of
from profiles.schema.errors import CapacityError


def give_back_pieces() -> None:
    """Gives free memory that lies in pieces of other sizes back to the device, if that has any."""
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


class SecondTry(OpMode):
    """Runs an op again, alone on the device, if it runs out of memory beside others.

    What a kernel takes as workspace, and how the allocator's free memory lies in pieces, cannot be
    known before the op runs. On the emulated device there is neither, but some ops allocate more
    for a result than its size, which fake tensors do not show.

    Enter it before what evicts, and after what times and counts.
    """

    def __init__(
        self,
        evict_all_but: Callable[[set[int]], None],
        watchers: Sequence[OpWatcher],
        *,
        records: bool,
    ) -> None:
        """Unless the step `records`, what fails again is left to raise what torch raises."""
        super().__init__()
        self._evict_all_but = evict_all_but
        self._watchers = watchers
        self._records = records

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Runs an op, twice if it has to; see `run_op_by`."""
        return self.run_op_by(run_itself, func, args, kwargs)

    def run_op_by(self, run: RunOp, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Has an op run, twice if it has to.

        Raises:
            CapacityError: It has no room in a step that is recorded.
            torch.OutOfMemoryError: It has none in another step; trainings know that error.
        """
        noted = [len(watcher) for watcher in self._watchers]
        draw = draw_of(func, args, kwargs)
        try:
            return run(func, args, kwargs)
        except torch.OutOfMemoryError as error:
            if draw is not None:
                draw.take_back()
            if not can_run_twice(func, args, kwargs):
                if not self._records:
                    raise
                raise _no_room(
                    func,
                    "beside what else is there, and cannot be run twice",
                    "Give a lower --limit: it leaves more of the device for what ops take while "
                    "they run.",
                ) from error
            self._evict_all_but({s._cdata for s in storages_in(func, args, kwargs)})
        for watcher, ops in zip(self._watchers, noted, strict=True):
            watcher.rewind(ops)
        give_back_pieces()
        try:
            return run(func, args, kwargs)
        except torch.OutOfMemoryError as error:
            if not self._records:
                raise
            raise _no_room(
                func,
                "even with everything else on the host",
                "Record a smaller step, or on a device with more memory.",
            ) from error


def _no_room(func: OpOverload, how: str, instead: str) -> CapacityError:
    return CapacityError(f"{func} does not fit on the device {how}. {instead}")
