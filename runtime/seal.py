"""Seals emptied storages, so that reading one is an error instead of the end of the process.

Torch has this for memory that CUDA graphs have taken back, in builds with CUDA only. There it holds
for every thread and every caller. In other builds there is no such thing, and nothing is done; nor
in torch 2.11, where a seal cannot be taken off again.
"""

import torch

MESSAGE = (
    "This tensor's bytes are in host memory: swapplan has swapped it out, and it was read where "
    "swapplan could not see it. Read it inside the step that was recorded, or from the thread that "
    "trains, or close the replay first."
)


def seal(storage: torch.UntypedStorage) -> None:
    """From now on access to the storage's memory raises RuntimeError, if torch can do that."""
    if _can_seal():
        torch._C._set_storage_data_ptr_access_error_msg(storage._cdata, MESSAGE)


def unseal(storage: torch.UntypedStorage) -> None:
    """The storage's memory may be accessed again."""
    if _can_seal():
        torch._C._clear_storage_data_ptr_access_error_msg(storage._cdata)


def _can_seal() -> bool:
    return hasattr(torch._C, "_set_storage_data_ptr_access_error_msg") and hasattr(
        torch._C, "_clear_storage_data_ptr_access_error_msg"
    )
