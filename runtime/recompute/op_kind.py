"""What is known of an operator whatever it is handed: looked up once, not for each op."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch._ops import OpOverload

from profiles.hooks.dispatch import (
    READS_DESCRIPTION,
    fixed_traits_of,
    is_bookkeeping,
    statistics_arguments,
    written_arguments,
)
from profiles.schema.profile import OpTrait

_FILLINGS = {"zeros": 0, "ones": 1}


@dataclass(frozen=True, slots=True, eq=False)
class OpKind:
    """An operator.

    Attributes:
        name: Its name.
        call: What runs it: the overload's own call adds nothing but a frame.
        does_work: Whether ops of its kind are counted.
        traits: What running one again has to know; None if that depends on its arguments.
        reads_description: Whether it reads no byte of what it is handed.
        fills: What it fills what it makes with, if it reads no byte: a value, or the position and
            the name of the argument that is one; None for nothing.
        writes: Position and name of each argument that its schema says it writes.
        statistics: Likewise of the running statistics of a normalization.
    """

    name: str
    call: Callable[..., Any]
    does_work: bool
    traits: tuple[OpTrait, ...] | None
    reads_description: bool
    fills: int | tuple[int, str] | None
    writes: tuple[tuple[int, str], ...]
    statistics: tuple[tuple[int, str], ...]


@cache
def kind_of(func: OpOverload) -> OpKind:
    """Returns what is known of an operator."""
    writes = written_arguments(func) if func._schema.is_mutable else ()
    return OpKind(
        name=str(func),
        call=func._op,
        does_work=not is_bookkeeping(func),
        traits=fixed_traits_of(func),
        reads_description=func in READS_DESCRIPTION,
        fills=_filling(func),
        writes=writes,
        statistics=statistics_arguments(func),
    )


def _filling(func: OpOverload) -> int | tuple[int, str] | None:
    for word, value in _FILLINGS.items():
        if word in func._schema.name:
            return value
    for position, argument in enumerate(func._schema.arguments):
        if argument.name == "fill_value":
            return position, argument.name
    return None
