"""The arguments of an op, noted without keeping a tensor alive, and made again.

[Note: noted arguments] A tensor is noted as what it shows of which storage. Everything else among
the arguments is kept as it is: numbers and generators may change from step to step, and each step
notes its own. Three kinds of tensor are noted otherwise:

- Of a tensor on another device, which a plan does not know, a copy is kept if it is a single
  number: a factor made by `torch.tensor(0.3)` is long gone when the op is run again.
- Running statistics that a normalization writes and does not read get scratch memory instead: they
  must not be updated twice.
- Wrappers, sparse tensors and lazily conjugated ones are not noted: their op is not run again.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from profiles.hooks.mode_stack import unseen
from profiles.hooks.plain_tensors import PLAIN, has_storage, version_of
from runtime.recompute.noted_storage import NotedStorage, NotedStorages


class UnfitOpError(Exception):
    """An op cannot be run again with the same results, or not with what was noted of it."""


@dataclass(frozen=True, slots=True)
class TensorAt:
    """A tensor: what it shows of which storage.

    Attributes:
        storage: The storage.
        dtype: Type of its elements.
        size: Its sizes.
        stride: Its strides.
        offset: Elements of the storage before its first.
        version: How often it had been written, as autograd counts.
        witness: The tensor itself, or the one that it is a view of, as long as it lives.
    """

    storage: NotedStorage
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    version: int
    witness: "weakref.ref[torch.Tensor]"

    @property
    def was_written(self) -> bool:
        """Whether autograd has counted a write since, in whatever thread that was done."""
        witness = self.witness()
        return witness is not None and version_of(witness) != self.version

    def on(self, storage: torch.UntypedStorage) -> torch.Tensor:
        """Returns a tensor that shows the same of another storage."""
        bare = torch.empty(0, dtype=self.dtype, device=storage.device)
        return bare.set_(storage, self.offset, self.size, self.stride)


@dataclass(frozen=True, slots=True)
class Scratch:
    """A tensor of which only the description counts.

    Attributes:
        dtype: Type of its elements.
        size: Its sizes.
        stride: Its strides.
        device: Where it is.
        value: What it is filled with; None for whatever the memory holds.
    """

    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    device: torch.device
    value: Any

    @classmethod
    def like(cls, tensor: torch.Tensor, value: Any) -> "Scratch":
        """Describes a tensor."""
        return cls(tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device, value)

    def made(self) -> torch.Tensor:
        """Returns such a tensor, on memory of its own."""
        tensor = torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=self.device)
        return tensor if self.value is None else tensor.fill_(self.value)


class Noting:
    """Notes the tensors of one op."""

    def __init__(self, storages: NotedStorages, device: torch.device) -> None:
        """Prepares to note tensors of a device."""
        self._storages = storages
        self._device = device

    def tensor(self, tensor: torch.Tensor) -> TensorAt | torch.Tensor:
        """Notes a tensor; see [Note: noted arguments].

        Raises:
            UnfitOpError: It is none that can be made again.
        """
        if not _is_plain(tensor):
            raise UnfitOpError("is handed a tensor that is not plain")
        if tensor.device.type != self._device.type and tensor.numel() == 1:
            with unseen():
                return tensor.detach().clone()
        storage = self._storages.note(tensor.untyped_storage())
        return TensorAt(
            storage=storage,
            dtype=tensor.dtype,
            size=tuple(tensor.shape),
            stride=tensor.stride(),
            offset=int(tensor.storage_offset()),
            version=version_of(tensor),
            # A view of a weight is gone as soon as the op has run; the weight is not.
            witness=weakref.ref(tensor if tensor._base is None else tensor._base),
        )


def changed(nest: Any, kind: type | tuple[type, ...], change: Callable[[Any], Any]) -> Any:
    """Returns a nest of arguments with all of one kind changed, in lists and tuples of its own."""
    if isinstance(nest, kind):
        return change(nest)
    if isinstance(nest, (list, tuple)):
        found = [changed(value, kind, change) for value in nest]
        return found if isinstance(nest, list) else tuple(found)
    if isinstance(nest, dict):
        return {key: changed(value, kind, change) for key, value in nest.items()}
    return nest


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is all said by its storage, type, sizes, strides and offset."""
    return (
        type(tensor) in PLAIN
        and tensor.layout is torch.strided
        and has_storage(tensor)
        and not (tensor.is_conj() or tensor.is_neg() or tensor.is_quantized)
    )
