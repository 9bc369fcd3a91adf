"""Owned storages: those a model or an optimizer holds between steps, by qualified name."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from profiles.hooks.data_parallel import unwrapped, wrapper_words
from profiles.hooks.plain_tensors import plain_parts
from profiles.hooks.several_optimizers import optimizer_words
from profiles.schema.model_description import DescribedTensor, ModelDescription
from profiles.schema.profile import GRAD, StorageKind

PART = "/"
"""Separates a tensor's name from the path to what is behind it."""


@dataclass(frozen=True, kw_only=True)
class Owned:
    """A storage held by a model or an optimizer.

    Attributes:
        name: `parameter:…`, `buffer:…`, `state:…` or `grad:…`; of one behind another tensor, with
            the path to it, such as `parameter:fc.weight/_local_tensor`.
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

    Tied tensors share one storage and so one entry. Of a tensor that is made of others, such as a
    sparse or a distributed one, those are held (`profiles.hooks.plain_tensors`). Tensors without
    memory (meta) are passed over.
    """
    owned: dict[int, Owned] = {}
    for name, kind, tensor in _owned_tensors(unwrapped(model), optimizer):
        for path, plain in plain_parts(tensor):
            storage = plain.untyped_storage()
            full = f"{name}{PART}{path}" if path else name
            owner = Owned(name=full, kind=kind, storage=storage, device=plain.device)
            owned.setdefault(storage._cdata, owner)
    return tuple(owned.values())


def storages_by_module(model: torch.nn.Module) -> dict[str, tuple[torch.UntypedStorage, ...]]:
    """Returns the storages of each module's own parameters and buffers, tied ones at each.

    Holding them keeps them alive.
    """
    return {
        name: tuple(
            plain.untyped_storage()
            for tensor in (*module._parameters.values(), *module._buffers.values())
            if tensor is not None
            for _, plain in plain_parts(tensor)
        )
        for name, module in unwrapped(model).named_modules()
    }


def describe_model(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> ModelDescription:
    """Returns what a plan depends on: names, shapes, dtypes, the optimizer's class, wrapping."""
    bare = unwrapped(model)
    return ModelDescription(
        optimizer=optimizer_words(optimizer),
        wrapper=wrapper_words(model),
        tensors=tuple(
            described
            for name, tensor in (*bare.named_parameters(), *bare.named_buffers())
            for described in _described(name, tensor)
        ),
    )


def _described(name: str, tensor: torch.Tensor) -> Iterator[DescribedTensor]:
    yield DescribedTensor(name=name, shape=tuple(tensor.shape), dtype=str(tensor.dtype))
    for path, plain in plain_parts(tensor):
        if path:
            shape = tuple(plain.shape)
            yield DescribedTensor(name=f"{name}{PART}{path}", shape=shape, dtype=str(plain.dtype))


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
            yield f"{GRAD}{name}", StorageKind.GRADIENT, parameter.grad
