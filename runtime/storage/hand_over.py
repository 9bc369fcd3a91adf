"""Gives the memory of one storage to another, in place: whatever refers to either stays valid."""

import torch

from profiles.hooks.mode_stack import unseen

_CAN_SWAP = hasattr(torch.UntypedStorage, "_swap_data_ptr_")
"""Torch has this since 2.13, and may take it away again: it is private."""


def hand_over(fresh: torch.UntypedStorage, storage: torch.UntypedStorage) -> None:
    """Gives a storage the memory of a fresh one, which is left without the bytes.

    Where torch cannot, the bytes are copied: for a moment they are there twice.
    """
    with unseen():
        if _CAN_SWAP:
            storage._swap_data_ptr_(fresh)  # type: ignore[attr-defined]
        else:
            storage.resize_(fresh.nbytes())
            storage.copy_(fresh)
        # What an interrupt had kept from being given back is given back now.
        fresh.resize_(0)
