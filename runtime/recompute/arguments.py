"""The arguments of an op, noted without keeping a tensor alive, and made again.

[Note: noted arguments] A tensor is noted as what it shows of which storage. Everything else among
the arguments is kept as it is: numbers and generators may change from step to step, and each step
notes its own. Three kinds of tensor are noted otherwise:

- Of a tensor on another device, which a plan does not know, a copy is kept if it is a single
  number: a factor made by `torch.tensor(0.3)` is long gone when the op is run again.
- Running statistics that a normalization writes and does not read get scratch memory instead: they
  must not be updated twice.
- Wrappers, sparse tensors and lazily conjugated ones are not noted: their op is not run again.

This is done for each tensor of each op that is noted, so what is made here are plain objects with
slots: a frozen dataclass takes as long to make as all else that is asked of a tensor.
"""

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from profiles.hooks.dispatch import HOLDS_NO_TENSOR
from profiles.hooks.mode_stack import unseen
from profiles.hooks.plain_tensors import PLAIN, storage_id_of, version_of
from runtime.recompute.noted_storage import NotedStorage, NotedStorages

Geometry = tuple[torch.dtype, tuple[int, ...], tuple[int, ...], int]
"""What a tensor shows of its storage: type of its elements, sizes, strides, and the elements of the
storage before its first. Two of them are compared at once."""


class UnfitOpError(Exception):
    """An op cannot be run again with the same results, or not with what was noted of it."""


class TensorAt:
    """A tensor that an op was handed: what it shows of which storage.

    Attributes:
        storage: The storage.
        geometry: What it shows of it.
        version: How often it had been written, as autograd counts.
        witness: The tensor itself, or the one that it is a view of, as long as it lives.
    """

    __slots__ = ("geometry", "storage", "version", "witness")

    def __init__(self, storage: NotedStorage, tensor: torch.Tensor) -> None:
        self.storage = storage
        self.geometry = geometry_of(tensor)
        self.version = 0 if tensor.is_inference() else tensor._version
        base = tensor._base
        # A view of a weight is gone as soon as the op has run; the weight is not.
        self.witness = weakref.ref(tensor if base is None else base)

    @property
    def was_written(self) -> bool:
        """Whether autograd has counted a write since, in whatever thread that was done."""
        witness = self.witness()
        return witness is not None and version_of(witness) != self.version

    def in_place(self, storage: torch.UntypedStorage) -> torch.Tensor:
        """Returns a tensor that shows the same of the same storage; often it is the same tensor."""
        witness = self.witness()
        if (
            witness is not None
            and storage_id_of(witness) == self.storage.cdata
            and geometry_of(witness) == self.geometry
        ):
            return witness
        return self.on(storage)

    def on(self, storage: torch.UntypedStorage) -> torch.Tensor:
        """Returns a tensor that shows the same of another storage."""
        dtype, size, stride, offset = self.geometry
        bare = torch.empty(0, dtype=dtype, device=storage.device)
        return bare.set_(storage, offset, size, stride)


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
    """Notes the tensors of ops."""

    def __init__(self, storages: NotedStorages, device: torch.device) -> None:
        """Prepares to note tensors of a device."""
        self._storages = storages
        self._device = device

    def arguments(self, values: Iterable[Any], handed: list[TensorAt]) -> list[Any]:
        """Notes arguments, in lists of its own; see [Note: noted arguments].

        Args:
            values: The arguments.
            handed: Takes the tensors that are noted.

        Raises:
            UnfitOpError: One is a tensor that cannot be made again.
        """
        noted = list(values)
        for position, value in enumerate(noted):
            if value.__class__ in HOLDS_NO_TENSOR:
                continue
            if isinstance(value, torch.Tensor):
                noted[position] = self._tensor(value, handed)
            elif isinstance(value, (list, tuple)):
                noted[position] = self.arguments(value, handed)
        return noted

    def storage_of(self, tensor: torch.Tensor) -> NotedStorage | None:
        """Returns the note of a tensor's storage; None of a number on another device.

        Raises:
            UnfitOpError: Its storage does not say all of it.
        """
        if (
            tensor.__class__ not in PLAIN
            or tensor.layout is not torch.strided
            or not torch._C._has_storage(tensor)
            or tensor.is_meta
            or tensor.is_conj()
            or tensor.is_neg()
            or tensor.is_quantized
        ):
            raise UnfitOpError("is handed a tensor that is not plain")
        if tensor.device != self._device and self._is_number_elsewhere(tensor):
            return None
        return self._storages.under(tensor)

    def _tensor(self, tensor: torch.Tensor, handed: list[TensorAt]) -> TensorAt | torch.Tensor:
        storage = self.storage_of(tensor)
        if storage is None:
            with unseen():
                return tensor.detach().clone()
        noted = TensorAt(storage, tensor)
        handed.append(noted)
        return noted

    def _is_number_elsewhere(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type != self._device.type and tensor.numel() == 1


def geometry_of(tensor: torch.Tensor) -> Geometry:
    """Returns what a tensor shows of its storage."""
    return tensor.dtype, tensor.shape, tensor.stride(), int(tensor.storage_offset())
