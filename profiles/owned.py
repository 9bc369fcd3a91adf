"""Owned storages: those a model or an optimizer holds between steps, by qualified name."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensor

from profiles.data_parallel import unwrapped, wrapper_words
from profiles.profile import StorageKind

PLAIN = frozenset({torch.Tensor, torch.nn.Parameter, torch.nn.Buffer})
"""Classes whose tensors surely have memory of their own: asking each tensor would take longer."""


@dataclass(frozen=True, kw_only=True)
class Owned:
    """A storage held by a model or an optimizer.

    Attributes:
        name: `parameter:…`, `buffer:…`, `state:…` or `grad:…`.
        kind: Its class.
        storage: The storage. Holding this record keeps it alive.
        device: The device of its tensor. (The storage of a fake tensor says `meta`.)
    """

    name: str
    kind: StorageKind
    storage: torch.UntypedStorage
    device: torch.device


def owned_storages(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Owned, ...]:
    """Returns every storage held right now, each once, under its first name.

    Tied tensors share one storage and so one entry. Tensors without a plain storage (sparse,
    meta) are passed over.
    """
    owned: dict[int, Owned] = {}
    for name, kind, tensor in _owned_tensors(unwrapped(model), optimizer):
        if has_storage(tensor):
            storage = tensor.untyped_storage()
            owner = Owned(name=name, kind=kind, storage=storage, device=tensor.device)
            owned.setdefault(storage._cdata, owner)
    return tuple(owned.values())


def has_storage(tensor: torch.Tensor) -> bool:
    """Whether a tensor keeps its numbers in one storage of its own device.

    A subclass may only wrap other tensors (DTensor, quantized weights): torch gives it a storage
    of the size it seems to have, with no memory behind it.
    """
    if tensor.layout is not torch.strided or tensor.device.type == "meta":
        return False
    return type(tensor) in PLAIN or not _is_wrapper(tensor)


def _is_wrapper(tensor: torch.Tensor) -> bool:
    if isinstance(tensor, FakeTensor) or tensor.untyped_storage().nbytes() == 0:
        # Where a storage has been emptied, asking for its memory may be an error, too.
        return False
    try:
        tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return True
    return False


def model_fingerprint(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Digest of what a plan depends on: names, shapes, dtypes, the optimizer's class, wrapping."""
    digest = hashlib.sha256((type(optimizer).__name__ + wrapper_words(model)).encode())
    bare = unwrapped(model)
    tensors = [*bare.named_parameters(), *bare.named_buffers()]
    for name, tensor in tensors:
        digest.update(f"|{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    return digest.hexdigest()


def _owned_tensors(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, StorageKind, torch.Tensor]]:
    names: dict[torch.Tensor, str] = {p: name for name, p in model.named_parameters()}
    for parameter, name in names.items():
        yield f"parameter:{name}", StorageKind.PARAMETER, parameter
    for name, buffer in model.named_buffers():
        yield f"buffer:{name}", StorageKind.BUFFER, buffer
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and parameter in names:
                yield f"state:{names[parameter]}.{key}", StorageKind.OPTIMIZER_STATE, value
    for parameter, name in names.items():
        if parameter.grad is not None:
            yield f"grad:{name}", StorageKind.GRADIENT, parameter.grad
