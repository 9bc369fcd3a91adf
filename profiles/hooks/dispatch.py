"""Dispatched ops: the storages each touches, and a mode that sees one after the other."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from profiles.hooks.plain_tensors import SPARSE_PARTS, has_storage, storages_behind
from profiles.schema.profile import OpTrait

NEEDS_NO_BYTES = frozenset({torch.ops.aten.detach.default, torch.ops.aten.alias.default})
"""Ops that a storage may be away for: they copy a tensor's description and nothing else.

Other views touch no byte either, but torch checks their bounds against the storage's size, which
is 0 while the storage is away; so they count as reads.
"""
_FACTORIES = (
    *("empty_like", "full_like", "ones_like", "zeros_like"),
    *("new_empty", "new_empty_strided", "new_full", "new_ones", "new_zeros"),
)
READS_DESCRIPTION = frozenset(
    getattr(packet, overload)
    for packet in (getattr(torch.ops.aten, name) for name in _FACTORIES)
    for overload in packet.overloads()
    if not getattr(packet, overload)._schema.is_mutable
)
"""Ops that make a tensor after another one's shape, dtype and device: its bytes may be away."""
_NORMALIZES = (
    *("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "batch_norm_update_stats"),
    *("batch_norm_gather_stats", "batch_norm_gather_stats_with_counts"),
)
_UPDATES_STATISTICS = frozenset(f"aten::{name}" for name in _NORMALIZES)
_STATISTICS = ("running_mean", "running_var")
"""Arguments that those ops write while training, although their schemas do not say so."""
_KEEPS_STATISTICS = _UPDATES_STATISTICS | {
    "aten::_native_batch_norm_legit",
    "aten::_batch_norm_with_update",
}
"""Ops that write them while training, said or not, and do not read them then."""
HOLDS_NO_TENSOR = frozenset(
    {int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout}
)
"""Kinds of argument that are no tensor and hold none."""
_CALLS_BACK = frozenset({"higher_order", "inductor", "_inductor_test"})
"""Namespaces of ops that run others, which no dispatch mode need see."""


RunOp = Callable[[Any, Any, Any], Any]
"""Runs an op with its arguments and keyword arguments."""


def run_itself(func: OpOverload, args: Any, kwargs: Any) -> Any:
    """Runs an op, and nothing else."""
    return func(*args, **kwargs)


class OpMode(TorchDispatchMode):
    """A dispatch mode that handles the ops of a step that do work, each in `run_op`."""

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if is_taken_apart(types, args, kwargs):
            return NotImplemented
        kwargs = kwargs or {}
        if is_bookkeeping(func):
            return func(*args, **kwargs)
        return self.run_op(func, args, kwargs)

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Runs an op and returns its result."""
        raise NotImplementedError


class OpWatcher(OpMode):
    """A dispatch mode that notes one number of each op that succeeds."""

    def __init__(self) -> None:
        super().__init__()
        self._noted: list[int] = []

    def __len__(self) -> int:
        """Ops noted so far."""
        return len(self._noted)

    def rewind(self, ops: int) -> None:
        """Forgets all ops but the first so many: they have to run again."""
        del self._noted[ops:]


def fixed_traits_of(op: OpOverload) -> tuple[OpTrait, ...] | None:
    """Returns the traits of an op, if they are the same whatever it is handed."""
    varies = op._schema.name in _KEEPS_STATISTICS or op is torch.ops.aten.index.Tensor
    return None if varies else _traits_by_schema(op)


def is_bookkeeping(op: OpOverload) -> bool:
    """Whether an op does no work: it describes a tensor again, or marks a range for a profiler."""
    # `prim` ops ask a fake tensor for its device; a real one knows without an op.
    return op in NEEDS_NO_BYTES or op.namespace in ("profiler", "prim")


def is_collective(op: OpOverload) -> bool:
    """Whether an op hands storages to a process group, whose threads may use them for longer."""
    return op.namespace in ("c10d", "_c10d_functional")


@cache
def is_random(op: OpOverload) -> bool:
    """Whether an op draws random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(op, "tags", ())


def traits_of(op: OpOverload, args: Any, kwargs: Any) -> tuple[OpTrait, ...]:
    """Returns what running an op again has to know of it."""
    traits = _traits_by_schema(op)
    if op._schema.name in _KEEPS_STATISTICS and _is_training(op, args, kwargs):
        return (*traits, OpTrait.KEEPS_STATISTICS)
    if op is torch.ops.aten.index.Tensor and not _selects(args[1]):
        return tuple(trait for trait in traits if trait is not OpTrait.SHAPED_BY_DATA)
    return traits


@cache
def _traits_by_schema(op: OpOverload) -> tuple[OpTrait, ...]:
    tags = op.tags
    shown = op.namespace in ("aten", "prims") or not op._schema.is_mutable
    holds = {
        OpTrait.RANDOM: is_random(op),
        OpTrait.COLLECTIVE: is_collective(op),
        OpTrait.WAITS: torch.Tag.data_dependent_output in tags,
        OpTrait.SHAPED_BY_DATA: torch.Tag.dynamic_output_shape in tags,
        OpTrait.UNKNOWN_EFFECTS: not shown or op.namespace in _CALLS_BACK,
    }
    return tuple(trait for trait, does in holds.items() if does)


def _is_training(op: OpOverload, args: Any, kwargs: Any) -> bool:
    """Whether a normalization uses the batch's own statistics: all but one are told so."""
    for position, name in _arguments_named(op, ("train", "training")):
        return bool(args[position] if position < len(args) else kwargs.get(name))
    return True


@cache
def _arguments_named(op: OpOverload, names: tuple[str, ...]) -> tuple[tuple[int, str], ...]:
    """Returns position and name of those arguments of an op that have one of some names."""
    named = enumerate(argument.name for argument in op._schema.arguments)
    return tuple((position, name) for position, name in named if name in names)


def statistics_arguments(op: OpOverload) -> tuple[tuple[int, str], ...]:
    """Returns position and name of the running statistics that a normalization is handed."""
    return _arguments_named(op, _STATISTICS)


def _selects(indices: Any) -> bool:
    """Whether some of the indices of an op are masks, which select as many elements as are set."""
    return not {torch.bool, torch.uint8}.isdisjoint([index.dtype for index in tensors_of(indices)])


@cache
def _writes_by_argument(op: OpOverload) -> tuple[tuple[str, bool], ...]:
    return tuple(
        (
            argument.name,
            (argument.alias_info is not None and argument.alias_info.is_write)
            or (op._schema.name in _UPDATES_STATISTICS and argument.name in _STATISTICS),
        )
        for argument in op._schema.arguments
    )


@cache
def written_arguments(op: OpOverload) -> tuple[tuple[int, str], ...]:
    """Returns position and name of each argument that an op writes."""
    named = enumerate(_writes_by_argument(op))
    return tuple((position, name) for position, (name, writes) in named if writes)


def can_run_twice(op: OpOverload, args: Any, kwargs: Any) -> bool:
    """Whether an op that has failed can be run again: it may have written part of an argument.

    What it has drawn is to be taken back first (`profiles.hooks.draws`).
    """
    return not any(storages_in(op, args, kwargs).values())


def storages_in(
    op: OpOverload, args: Any, kwargs: Any, device: torch.device | None = None
) -> dict[torch.UntypedStorage, bool]:
    """Returns the storages whose bytes an op is handed, each with whether the op writes it.

    With a device, only storages of that device.
    """
    touched: dict[torch.UntypedStorage, bool] = {}
    if op in READS_DESCRIPTION:
        return touched
    for value, writes in _arguments(op, args, kwargs):
        for storage in storages_of(value, device):
            touched[storage] = writes or touched.get(storage, False)
    return touched


def storages_of(value: Any, device: torch.device | None = None) -> list[torch.UntypedStorage]:
    """Returns the storages behind every tensor in a nest of lists, tuples and dicts.

    With a device, only storages of that device.
    """
    found: list[torch.UntypedStorage] = []
    for tensor in tensors_of(value):
        if device is None or tensor.device == device:
            found += storages_behind(tensor)
    if isinstance(value, torch.UntypedStorage) and (device is None or value.device == device):
        # `set_` is handed one; there is no tensor that could be asked.
        found.append(value)
    return found


def is_taken_apart(types: Any, args: Any, kwargs: Any) -> bool:
    """Whether an op is handed a wrapper around other tensors, which runs ops of its own on those.

    [Note: wrappers run their own ops] A dispatch mode that is shown such an op returns
    `NotImplemented`. Torch then asks the wrapper, whose ops on the tensors inside come to all modes
    one by one; had the mode run the op itself, it would have seen none of them, nor the memory that
    they take.
    """
    if not types:
        return False
    # A list: an interrupt inside a generator that ends early would be passed over.
    wrappers = [
        tensor
        for tensor in tensors_of((args, kwargs or {}))
        if type(tensor) in types and tensor.layout not in SPARSE_PARTS and not has_storage(tensor)
    ]
    return bool(wrappers)


def tensors_in(op: OpOverload, args: Any, kwargs: Any) -> Iterator[tuple[torch.Tensor, bool]]:
    """Yields the tensors an op is handed, each with whether the op writes it."""
    for value, writes in _arguments(op, args, kwargs):
        for tensor in tensors_of(value):
            yield tensor, writes


def _arguments(op: OpOverload, args: Any, kwargs: Any) -> list[tuple[Any, bool]]:
    """Returns an op's arguments that may hold a tensor, each with whether the op writes it."""
    found = []
    for position, (name, writes) in enumerate(_writes_by_argument(op)):
        value = args[position] if position < len(args) else kwargs.get(name)
        if value.__class__ not in HOLDS_NO_TENSOR:
            found.append((value, writes))
    return found


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Returns every tensor in a nest of lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        return [value]
    found: list[torch.Tensor] = []
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, (list, tuple)):
        for one in value:
            if isinstance(one, torch.Tensor):
                found.append(one)
            elif isinstance(one, (list, tuple, dict)):
                found += tensors_of(one)
    return found
