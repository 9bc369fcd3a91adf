"""Marks on storages that show, later, whether anything has written them since.

[Note: write marks] A mode looks at ops (`runtime.replay.op_guard`). A write may come without one:
from a kernel that was given an address, through memory that NumPy shares, from another thread.
Torch's copy-on-write storages see these too: all code that asks for memory to write it gets it
through one door, which takes the mark off, and code that asks to read it leaves it on. So a storage
is marked when its bytes are copied, and looked at when that copy is about to be all there is. A
mark copies nothing: the copy-on-write clone that puts it on is dropped at once, and the last owner
of copy-on-write memory keeps it where it is. What takes a mark off without writing, as asking for
`data_ptr` does, costs a copy that was not needed.

A mark must be off before its storage is resized, or torch refuses the storage from then on. So
marks are taken off when a storage is emptied, and when nothing relies on a copy of it any more.

Not seen is a write through an address that was taken before the mark was put on. Marks are for the
emulated device only: on CUDA some of torch's ops choose another kernel for such storages, and
`record_stream` passes them over.
"""

import torch

from profiles.hooks.mode_stack import unseen
from profiles.hooks.plain_tensors import address_of, is_copy_on_write


class LostWriteError(RuntimeError):
    """A storage was written, unseen, while its bytes were on their way back."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} was written while its bytes were on their way back from host memory, by a "
            "kernel, thread or NumPy array that swapplan does not see: that write is lost. Write "
            "it by a torch op of the thread that trains, or between two steps."
        )


class WriteMarks:
    """Which storages have been marked, and whether they still are."""

    def __init__(self, device: torch.device) -> None:
        """Makes marks for storages of one device; elsewhere than on the CPU nothing is marked."""
        self._can_mark = is_copy_on_write is not None and device.type == "cpu"
        self._marked: dict[int, int] = {}

    def put_on(self, storage_id: int, storage: torch.UntypedStorage | None) -> None:
        """Marks a storage, known by its id in the plan, if it still exists."""
        if storage is None or not self._can_mark:
            return
        with unseen():
            # The clone goes at once.
            torch._lazy_clone(_bytes_of(storage))
        self._marked[storage_id] = storage._cdata

    def shows_write(self, storage_id: int, storage: torch.UntypedStorage | None) -> bool:
        """Whether a storage was marked and may have been written since."""
        if storage is None or self._marked.get(storage_id) != storage._cdata:
            return False
        assert is_copy_on_write is not None
        with unseen():
            return not is_copy_on_write(_bytes_of(storage))


def take_off(storage: torch.UntypedStorage | None) -> None:
    """Takes a mark off, if there is one: the storage's memory becomes its own again, in place."""
    if storage is not None and storage.device.type == "cpu":
        address_of(storage)


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    # This constructor shares the storage, as `set_` does, in a third of the time.
    return torch.ByteTensor(storage)
