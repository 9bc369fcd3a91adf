"""Owned storages: those a model or an optimizer holds between steps, by qualified name."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from profiles.data_parallel import unwrapped, wrapper_words
from profiles.model_description import DescribedTensor, ModelDescription
from profiles.profile import StorageKind


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
    """Whether a tensor keeps its numbers in one storage of its own device."""
    return tensor.layout is torch.strided and tensor.device.type != "meta"


def describe_model(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> ModelDescription:
    """Returns what a plan depends on: names, shapes, dtypes, the optimizer's class, wrapping."""
    bare = unwrapped(model)
    return ModelDescription(
        optimizer=type(optimizer).__name__,
        wrapper=wrapper_words(model),
        tensors=tuple(
            DescribedTensor(name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype))
            for name, tensor in (*bare.named_parameters(), *bare.named_buffers())
        ),
    )


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
