"""Edits to a file's content, each of which its reader must refuse.

Only edits of type and of sign are made blindly here: whatever the field means, they are wrong.
"""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

Place = tuple[str | int, ...]

FREE_SIGN = frozenset({"seed"})
"""Integers that may be negative."""
MAY_BE_ANY_NUMBER = frozenset({"both_bytes_per_us", "kernel_us"})
"""Fields that are a number or nothing, and may be any number from 0 up."""
MAY_BE_ABSENT = frozenset({"model"})
"""Fields that older files do not have."""
ABSENT = object()


class Mutation(NamedTuple):
    """One edit.

    Attributes:
        place: Keys and indices from the top of the file.
        value: What is put there; ABSENT takes the field out.
    """

    place: Place
    value: Any

    @property
    def field(self) -> str:
        """The innermost named field, which an error message must name."""
        return next(str(part) for part in reversed(self.place) if isinstance(part, str))

    def __str__(self) -> str:
        path = ".".join(map(str, self.place))
        return f"{path}={'absent' if self.value is ABSENT else self.value!r}"


def apply(content: Any, mutation: Mutation) -> Any:
    """Returns a copy of the content with one edit."""
    edited = copy.deepcopy(content)
    parent = edited
    for part in mutation.place[:-1]:
        parent = parent[part]
    if mutation.value is ABSENT:
        del parent[mutation.place[-1]]
    else:
        parent[mutation.place[-1]] = mutation.value
    return edited


def mutations(content: Any, place: Place = ()) -> Iterator[Mutation]:
    """Every field of the first and last record of every list, edited in every wrong way."""
    if isinstance(content, dict):
        yield Mutation((*place, "no_such_field"), 1)
        for key, value in content.items():
            if key not in MAY_BE_ABSENT:
                yield Mutation((*place, key), ABSENT)
            yield from mutations(value, (*place, key))
    if isinstance(content, list):
        for i in sorted({0, len(content) - 1} & set(range(len(content)))):
            yield from mutations(content[i], (*place, i))
    if place:
        for value in wrong_values(place, content):
            yield Mutation(place, value)


def wrong_values(place: Place, value: Any) -> list[Any]:
    """Values of another type, another sign, or no member of the enum."""
    match value:
        case bool():
            return ["yes", None]
        case int():
            negative = [] if place[-1] in FREE_SIGN else [-1]
            return [*negative, "1", 1.5, True, [value], {}, float("nan")]
        case float():
            return [-1.0, "1", True, [value], float("nan"), float("inf"), float("-inf")]
        case str():
            return [7, None, True, [value]]
        case None:
            numbers = [-1.0] if place[-1] in MAY_BE_ANY_NUMBER else [-1, 1.5, 10**30]
            return [*numbers, "no such value", {}]
        case _:
            return [None, 7, "text", True]
