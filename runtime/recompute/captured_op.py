"""An op of the step under way with all that running it again takes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch._ops import OpOverload

from profiles.hooks.dispatch import READS_DESCRIPTION, storages_in, tensors_of, traits_of
from profiles.schema.profile import NEVER_AGAIN, OpTrait
from runtime.recompute.arguments import Noting, Scratch, TensorAt, UnfitOpError, changed
from runtime.recompute.generators import Draw, generator_of
from runtime.recompute.noted_storage import NotedStorage, NotedStorages

RunOp = Callable[[Any, Any, Any], Any]
"""Runs an op with its arguments and keyword arguments."""

Fresh = dict[NotedStorage, torch.UntypedStorage]
"""Memory that stands for storages of the step, while ops are run again."""


@dataclass(frozen=True)
class CapturedOp:
    """An op as it ran: what it was handed, and what it made of that.

    Attributes:
        name: Its name.
        func: What runs it.
        args: Its arguments, noted.
        kwargs: Likewise, by keyword.
        draw: What it drew from, if it is random.
        handed: The tensors it was handed.
        written: Those that it wrote, running statistics apart.
        results: The tensors that it returned.
    """

    name: str
    func: Any
    args: Any
    kwargs: Any
    draw: Draw | None
    handed: tuple[TensorAt, ...]
    written: frozenset[NotedStorage]
    results: tuple[TensorAt, ...] = ()

    @cached_property
    def used(self) -> frozenset[NotedStorage]:
        """Storages whose bytes it was handed."""
        return frozenset([tensor.storage for tensor in self.handed])

    @cached_property
    def made(self) -> frozenset[NotedStorage]:
        """Storages that it returned without having been handed them."""
        return frozenset([result.storage for result in self.results]) - self.used

    @cached_property
    def touched(self) -> frozenset[NotedStorage]:
        """All storages it was handed or has made."""
        return self.used | self.made

    def run_again(self, fresh: Fresh, run: RunOp) -> Fresh:
        """Runs it on fresh memory where there is some for a storage, on the storage where not.

        Returns:
            The memory of what it has made.

        Raises:
            UnfitOpError: What it is handed is not there, or it makes something else.
        """

        def tensor_of(noted: TensorAt) -> torch.Tensor:
            storage = fresh.get(noted.storage)
            return noted.on(_bytes_of(noted.storage) if storage is None else storage)

        args, kwargs = (
            changed(changed(nest, TensorAt, tensor_of), Scratch, Scratch.made)
            for nest in (self.args, self.kwargs)
        )
        found = list(tensors_of(run(self.func, args, kwargs)))
        if len(found) != len(self.results) or not all(map(_is_like, found, self.results)):
            raise UnfitOpError(f"{self.name} makes other tensors than it did")
        return {
            result.storage: tensor.untyped_storage()
            for tensor, result in zip(found, self.results, strict=True)
            if result.storage in self.made
        }


def _is_like(tensor: torch.Tensor, noted: TensorAt) -> bool:
    """Whether a tensor shows of its storage what another one showed."""
    places = tensor.stride() == noted.stride and tensor.storage_offset() == noted.offset
    return places and tensor.shape == noted.size and tensor.dtype == noted.dtype


def _bytes_of(noted: NotedStorage) -> torch.UntypedStorage:
    storage = noted.storage
    # A tensor on an emptied storage would have it grow again.
    if storage is None or storage.nbytes() != noted.size_bytes:
        raise UnfitOpError("needs a storage that is not there")
    return storage


def before_op(
    storages: NotedStorages, device: torch.device, func: OpOverload, args: Any, kwargs: Any
) -> CapturedOp:
    """Notes an op that is about to run.

    Raises:
        UnfitOpError: It cannot be run again.
    """
    traits = traits_of(func, args, kwargs)
    for trait in traits:
        if trait in NEVER_AGAIN:
            raise UnfitOpError(f"is never run again: {trait.value}")
    if func in READS_DESCRIPTION:
        # What it makes says all there is to know of what it was handed.
        args, kwargs = _filling(func, args, kwargs), {}
        return CapturedOp(str(func), func, args, kwargs, None, (), frozenset())
    noting = Noting(storages, device)
    statistics = _statistics(func, args, kwargs) if OpTrait.KEEPS_STATISTICS in traits else ()

    def noted(tensor: torch.Tensor) -> Any:
        is_scratch = id(tensor) in map(id, statistics)
        return Scratch.like(tensor, 0) if is_scratch else noting.tensor(tensor)

    noted_args, noted_kwargs = (changed(nest, torch.Tensor, noted) for nest in (args, kwargs))
    return CapturedOp(
        str(func),
        func,
        noted_args,
        noted_kwargs,
        Draw(generator_of(args, kwargs)) if OpTrait.RANDOM in traits else None,
        tuple(_noted_in((noted_args, noted_kwargs))),
        _written(storages, func, args, kwargs, statistics),
    )


def _written(
    storages: NotedStorages, func: OpOverload, args: Any, kwargs: Any, statistics: Any
) -> frozenset[NotedStorage]:
    """Notes what an op writes, running statistics apart."""
    if not func._schema.is_mutable:
        # What is written all the same are those statistics.
        return frozenset()
    scratch = [tensor.untyped_storage() for tensor in statistics]
    touched = storages_in(func, args, kwargs).items()
    return frozenset(
        [storages.note(storage) for storage, writes in touched if writes and storage not in scratch]
    )


def after_op(
    before: CapturedOp, storages: NotedStorages, device: torch.device, result: Any
) -> CapturedOp:
    """Adds what an op has returned.

    Raises:
        UnfitOpError: That cannot be made again.
    """
    func, args = before.func, before.args
    if func in READS_DESCRIPTION:
        (tensor,) = tensors_of(result)
        func, args = partial(_made, Scratch.like(tensor, *args)), ()
    noting = Noting(storages, device)
    noted = [noting.tensor(tensor) for tensor in tensors_of(result)]
    results = tuple(tensor for tensor in noted if isinstance(tensor, TensorAt))
    if len(results) < len(noted):
        raise UnfitOpError("makes a tensor on another device")
    return replace(before, func=func, args=args, results=results)


def last_uses(ops: tuple[CapturedOp, ...]) -> Mapping[NotedStorage, int]:
    """Returns the number of the last op that touches each storage."""
    return {storage: number for number, op in enumerate(ops) for storage in op.touched}


def _made(scratch: Scratch) -> torch.Tensor:
    return scratch.made()


_FILLINGS = {"zeros": 0, "ones": 1}


def _filling(func: OpOverload, args: Any, kwargs: Any) -> tuple[Any]:
    """Returns what an op that makes a tensor like another fills it with; None for nothing."""
    name = func._schema.name
    for word, value in _FILLINGS.items():
        if word in name:
            return (value,)
    for position, argument in enumerate(func._schema.arguments):
        if argument.name == "fill_value":
            return (args[position] if position < len(args) else kwargs["fill_value"],)
    return (None,)


def _statistics(func: OpOverload, args: Any, kwargs: Any) -> tuple[torch.Tensor, ...]:
    """Returns the running statistics that a normalization is handed."""
    names = [argument.name for argument in func._schema.arguments]
    values = dict(zip(names, args, strict=False)) | kwargs
    found = (values.get(name) for name in ("running_mean", "running_var"))
    return tuple(value for value in found if isinstance(value, torch.Tensor))


def _noted_in(nest: Any) -> Iterator[TensorAt]:
    """Yields the tensors that are noted in a nest of arguments."""
    if isinstance(nest, TensorAt):
        yield nest
    elif isinstance(nest, (list, tuple)):
        for value in nest:
            yield from _noted_in(value)
    elif isinstance(nest, dict):
        yield from _noted_in(list(nest.values()))
