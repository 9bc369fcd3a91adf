"""An op of the step under way with all that running it again takes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch._ops import OpOverload

from profiles.hooks.dispatch import RunOp, tensors_of, traits_of
from profiles.hooks.draws import Draw, draw_of
from profiles.schema.profile import NEVER_AGAIN, OpTrait
from runtime.recompute.arguments import (
    Geometry,
    Noting,
    Scratch,
    TensorAt,
    UnfitOpError,
    geometry_of,
)
from runtime.recompute.noted_storage import NotedStorage
from runtime.recompute.op_kind import OpKind, kind_of

Fresh = dict[NotedStorage, tuple[torch.Tensor, Geometry]]
"""Tensors on memory that stands for storages of the step, while ops are run again."""


class CapturedOp:
    """An op as it ran: what it was handed, and what it made of that.

    Attributes:
        kind: Its operator.
        func: What runs it.
        args: Its arguments, noted.
        kwargs: Likewise, by keyword.
        draw: What it drew from, if it is random.
        handed: The tensors it was handed.
        results: The tensors that it returned: what each shows of which storage.
        used: Storages whose bytes it was handed, as often as it was.
        written: Those that it wrote, running statistics apart.
        made: Storages that it returned without having been handed them.
        touched: All of these.
        writes: How often each of them had been written when it had run, as they stand in `touched`.
    """

    __slots__ = (
        *("args", "draw", "func", "handed", "kind", "kwargs", "made", "results", "touched"),
        *("used", "writes", "written"),
    )

    def __init__(
        self, kind: OpKind, args: list[Any], kwargs: dict[str, Any], handed: list[TensorAt]
    ) -> None:
        self.kind = kind
        self.func = kind.call
        self.args = args
        self.kwargs = kwargs
        self.draw: Draw | None = None
        self.handed = handed
        self.results: list[tuple[NotedStorage, Geometry]] = []
        self.used = [tensor.storage for tensor in handed]
        self.written: list[NotedStorage] = []
        self.made: list[NotedStorage] = []
        self.touched = self.used
        self.writes: list[int] = []

    def run_again(self, fresh: Fresh, run: RunOp) -> None:
        """Runs it on fresh memory where there is some for a storage, on the storage where not.

        What it has made is among the fresh memory then.

        Raises:
            UnfitOpError: What it is handed is not there, or it makes something else.
        """
        args, kwargs = _again(self.args, fresh), self.kwargs
        if kwargs:
            kwargs = dict(zip(kwargs, _again(list(kwargs.values()), fresh), strict=True))
        found = tensors_of(run(self.func, args, kwargs))
        if [geometry_of(tensor) for tensor in found] != [shown for _, shown in self.results]:
            raise UnfitOpError(f"{self.kind.name} makes other tensors than it did")
        for tensor, (storage, shown) in zip(found, self.results, strict=True):
            if storage in self.made:
                fresh[storage] = tensor, shown


def _again(noted: list[Any], fresh: Fresh) -> list[Any]:
    """Makes arguments again from what was noted of them."""
    values = list(noted)
    for position, value in enumerate(noted):
        kind = value.__class__
        if kind is TensorAt:
            values[position] = _tensor_again(value, fresh)
        elif kind is list:
            values[position] = _again(value, fresh)
        elif kind is Scratch:
            values[position] = value.made()
    return values


def _tensor_again(noted: TensorAt, fresh: Fresh) -> torch.Tensor:
    found = fresh.get(noted.storage)
    if found is None:
        return noted.in_place(_bytes_of(noted.storage))
    tensor, shown = found
    return tensor if shown == noted.geometry else noted.on(tensor.untyped_storage())


def _bytes_of(noted: NotedStorage) -> torch.UntypedStorage:
    storage = noted.storage
    # A tensor on an emptied storage would have it grow again.
    if storage is None or storage.nbytes() != noted.size_bytes:
        raise UnfitOpError("needs a storage that is not there")
    return storage


def before_op(noting: Noting, func: OpOverload, args: Any, kwargs: Any) -> CapturedOp:
    """Notes an op that is about to run.

    Raises:
        UnfitOpError: It cannot be run again.
    """
    kind = kind_of(func)
    traits = traits_of(func, args, kwargs) if kind.traits is None else kind.traits
    for trait in traits:
        if trait in NEVER_AGAIN:
            raise UnfitOpError(f"is never run again: {trait.value}")
    if kind.reads_description:
        # What it makes says all there is to know of what it was handed.
        return CapturedOp(kind, [_filling(kind, args, kwargs)], {}, [])
    if OpTrait.KEEPS_STATISTICS in traits:
        args, kwargs = _without_statistics(kind, args, kwargs)
    handed: list[TensorAt] = []
    noted = noting.arguments(args, handed)
    by_name = kwargs
    if kwargs:
        by_name = dict(zip(kwargs, noting.arguments(kwargs.values(), handed), strict=True))
    op = CapturedOp(kind, noted, by_name, handed)
    op.draw = draw_of(func, args, kwargs)
    if kind.writes:
        op.written = _written(kind, op)
    return op


def after_op(noting: Noting, op: CapturedOp, result: Any) -> None:
    """Adds what an op has returned.

    Raises:
        UnfitOpError: That cannot be made again.
    """
    found = tensors_of(result)
    if op.kind.reads_description:
        op.func, op.args = Scratch.like(found[0], *op.args).made, []
    for tensor in found:
        storage = noting.storage_of(tensor)
        if storage is None:
            raise UnfitOpError("makes a tensor on another device")
        op.results.append((storage, geometry_of(tensor)))
        if storage not in op.used:
            op.made.append(storage)
    op.touched = op.used + op.made
    op.writes = [storage.writes for storage in op.touched]


def last_uses(ops: tuple[CapturedOp, ...]) -> Mapping[NotedStorage, int]:
    """Returns the number of the last op that touches each storage."""
    return {storage: number for number, op in enumerate(ops) for storage in op.touched}


def _written(kind: OpKind, op: CapturedOp) -> list[NotedStorage]:
    """Returns the storages that an op writes, of those among its arguments."""
    found: list[NotedStorage] = []
    for position, name in kind.writes:
        value = op.args[position] if position < len(op.args) else op.kwargs.get(name)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, TensorAt):
                found.append(one.storage)
    return found


def _filling(kind: OpKind, args: Any, kwargs: Any) -> Any:
    """Returns what an op that makes a tensor like another fills it with; None for nothing."""
    if not isinstance(kind.fills, tuple):
        return kind.fills
    position, name = kind.fills
    return args[position] if position < len(args) else kwargs[name]


def _without_statistics(kind: OpKind, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Returns arguments with the running statistics of a normalization described only."""
    args, kwargs = list(args), dict(kwargs)
    for position, name in kind.statistics:
        if position < len(args):
            args[position] = _described(args[position])
        elif name in kwargs:
            kwargs[name] = _described(kwargs[name])
    return args, kwargs


def _described(statistic: torch.Tensor | None) -> Scratch | None:
    return None if statistic is None else Scratch.like(statistic, 0)
