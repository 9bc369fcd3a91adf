"""Plain tensors: those with their numbers in one storage, and what is behind those without.

A sparse tensor is made of others: its indices and its values. So is a wrapper subclass: a `DTensor`
of its local tensor, a quantised weight of its integers and their scale, a jagged tensor of values
and offsets. A wrapper has a storage by name, with a size and no memory. What is moved is what is
behind. A wrapper that neither offers `__tensor_flatten__` nor holds its tensors as attributes, or a
tensor of an opaque layout, has no plain tensors.
"""

from collections.abc import Callable, Iterator

import torch
from torch._subclasses.fake_tensor import FakeTensor

from profiles.schema.profile import CPU

PLAIN = frozenset({torch.Tensor, torch.nn.Parameter, torch.nn.Buffer})
"""Classes that always have a storage of their own, if they have one. Others may be wrappers."""

SPARSE_PARTS: dict[torch.layout, tuple[str, ...]] = {
    torch.sparse_coo: ("_indices", "_values"),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}

# In one call where torch has it, which makes no Python object of the storage.
storage_id_of: Callable[[torch.Tensor], int] = getattr(
    torch._C, "_storage_address", lambda tensor: tensor.untyped_storage()._cdata
)
"""Returns the `_cdata` of a tensor's storage, by which ops and modes know it."""

is_copy_on_write: Callable[[torch.Tensor], bool] | None = getattr(torch._C, "_is_cow_tensor", None)
"""Whether a tensor's memory is to be copied before it is written; None if torch does not say."""

_NO_MEMORY = "invalid python storage"
"""What torch says of a wrapper's storage when asked for its address."""


def has_storage(tensor: torch.Tensor) -> bool:
    """Whether a tensor keeps its numbers in one storage of its own device."""
    if type(tensor) in PLAIN:
        # Asked for each tensor of each op; a device's name takes ten times as long.
        return torch._C._has_storage(tensor) and not tensor.is_meta
    if not torch._C._has_storage(tensor) or tensor.device.type == "meta":
        return False
    return not _is_wrapper(tensor)


def is_shared_memory(storage: torch.UntypedStorage) -> bool:
    """Whether a storage lies in memory that processes share, or that a file is mapped to.

    [Note: memory that processes share] The worker processes of a `DataLoader` put their batches
    there, and how many have arrived when a step begins depends on which worker was faster. On an
    accelerator such a batch stays on the host. The emulated device counts shared memory as the
    host's likewise, unless the model or the optimizer owns it.
    """
    # Of CUDA's storages torch says that all are.
    return storage.device.type == CPU and storage.is_shared()


def is_movable(storage: torch.UntypedStorage) -> bool:
    """Whether a storage can be emptied and refilled without anything else noticing.

    Torch forbids to resize memory that an array or a file maps. It allows it for memory shared
    with other processes, which would then be shared no more.
    """
    return storage.resizable() and not is_shared_memory(storage)


def plain_parts(tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the plain tensors behind a tensor, each by its path, itself by ''."""
    if has_storage(tensor):
        yield "", tensor
        return
    for name, part in _parts(tensor):
        if part is not tensor:
            for path, plain in plain_parts(part):
                yield f"{name}/{path}" if path else name, plain


def part_at(tensor: torch.Tensor | None, path: str) -> torch.Tensor | None:
    """Returns the plain tensor that is at a path behind a tensor, if there is one."""
    if tensor is None:
        return None
    # A list: an interrupt inside a generator that ends early would be passed over.
    plain = [plain for found, plain in plain_parts(tensor) if found == path]
    return plain[0] if plain else None


def only_plain(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """Returns the plain tensor behind a tensor, if there is just one; itself if it is plain."""
    if tensor is None or has_storage(tensor):
        return tensor
    plain = [part for _, part in plain_parts(tensor)]
    return plain[0] if len(plain) == 1 else None


def storages_behind(tensor: torch.Tensor) -> list[torch.UntypedStorage]:
    """Returns the storages of the plain tensors behind a tensor."""
    if has_storage(tensor):
        return [tensor.untyped_storage()]
    return [plain.untyped_storage() for _, plain in plain_parts(tensor)]


def version_of(tensor: torch.Tensor) -> int:
    """Returns how often a tensor was written, as autograd counts; 0 where it does not count."""
    return 0 if tensor.is_inference() else tensor._version


def address_of(storage: torch.UntypedStorage) -> int:
    """Returns where a storage's bytes are, unreported (see `profiles.hooks.addresses`).

    Raises:
        RuntimeError: It has no memory behind it.
    """
    address: int = torch._C.StorageBase.data_ptr(storage)  # type: ignore[attr-defined]
    return address


def _is_wrapper(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a storage without memory behind it, whatever its class.

    Asking for an address says so, but takes off what marks a storage to see whether it is written
    (`runtime.storage.write_marks`). So it is asked only of a class that may be a wrapper, and not
    of a storage that shows by its mark that it has memory.
    """
    may_be = type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    if not may_be or isinstance(tensor, FakeTensor):
        return False
    if is_copy_on_write is not None and is_copy_on_write(tensor):
        return False
    try:
        address_of(tensor.untyped_storage())
    except RuntimeError as error:
        return _NO_MEMORY in str(error)
    return False


def _parts(tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the tensors that a tensor is made of, by name."""
    if tensor.layout in SPARSE_PARTS:
        # To ask for a part is an op, but none of the step.
        with torch._C._DisableTorchDispatch(), torch._C._AutoDispatchBelowAutograd():
            parts = [(name, getattr(tensor, name)()) for name in SPARSE_PARTS[tensor.layout]]
        yield from parts
        return
    if type(tensor) in PLAIN:
        return
    if hasattr(tensor, "__tensor_flatten__"):
        names = tensor.__tensor_flatten__()[0]
    else:
        names = list(vars(tensor))
    for name in names:
        part = getattr(tensor, name, None)
        if isinstance(part, torch.Tensor):
            yield name, part
