"""A second try for an op that ran out of memory although its arguments and results have room.

What a kernel takes as workspace, and how the allocator's free memory lies in pieces, is known to
nobody before the op runs. On the emulated device there is neither, but some ops allocate more for a
result than its size, which fake tensors do not tell.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._ops import OpOverload

from profiles.hooks.dispatch import OpMode, storages_in
from profiles.recording.op_watchers import OpWatcher
from profiles.schema.errors import CapacityError


class SecondTry(OpMode):
    """Runs an op again, alone on the device, if it runs out of memory.

    Enter it before what evicts, and after what times and counts.
    """

    def __init__(
        self, evict_all_but: Callable[[set[int]], None], watchers: Sequence[OpWatcher]
    ) -> None:
        super().__init__()
        self._evict_all_but = evict_all_but
        self._watchers = watchers

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Runs an op, twice if it has to."""
        noted = [len(watcher) for watcher in self._watchers]
        try:
            return func(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            inputs = storages_in(func, args, kwargs)
            if any(inputs.values()) or torch.Tag.nondeterministic_seeded in func.tags:
                # It may have written part of its argument, or drawn random numbers.
                raise _no_room(
                    func,
                    "beside what else is there, and cannot be run twice",
                    "Give a lower --limit: it leaves more of the device for what ops take while "
                    "they run.",
                ) from error
            self._evict_all_but({storage._cdata for storage in inputs})
        for watcher, ops in zip(self._watchers, noted, strict=True):
            watcher.rewind(ops)
        if torch.cuda.is_initialized():
            # Free memory that lies in pieces of other sizes goes back to the device.
            torch.cuda.empty_cache()
        try:
            return func(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            raise _no_room(
                func,
                "even with everything else on the host",
                "Record a smaller step, or on a device with more memory.",
            ) from error


def _no_room(func: OpOverload, how: str, instead: str) -> CapacityError:
    return CapacityError(f"{func} does not fit on the device {how}. {instead}")
