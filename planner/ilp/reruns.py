"""Which ops a plan may run again, and between which slots: what rows (17) and (18) count."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from planner.recompute.offers import Offers, Option


class Rerun(NamedTuple):
    """An op that is run again once, at some slot from the first to the last.

    Attributes:
        is_exact: It is run for exact options, all to that one slot.
    """

    op: int
    first_slot: int
    last_slot: int
    is_exact: bool


@dataclass(frozen=True)
class RerunsOfOp:
    """What runs an op again in one stretch of slots, apart from other stretches.

    Attributes:
        options: Those that do, numbered as offered, in that order.
        anywhere: It is run for those that are not exact; None if all are.
        exact: It is run for the others, by slot.
    """

    options: tuple[tuple[int, Option], ...]
    anywhere: Rerun | None
    exact: dict[int, Rerun]

    @property
    def reruns(self) -> Iterator[Rerun]:
        """Yields both kinds."""
        if self.anywhere is not None:
            yield self.anywhere
        yield from self.exact.values()


def reruns_of(offers: Offers) -> Iterator[RerunsOfOp]:
    """Yields what may be run again, by op and stretch."""
    ways: dict[int, list[tuple[int, Option]]] = {}
    for n, option in enumerate(offers.options):
        for op in option.ops:
            ways.setdefault(op, []).append((n, option))
    for op, options in sorted(ways.items()):
        for stretch in _stretches(options):
            yield _reruns(op, stretch)


def _stretches(options: Iterable[tuple[int, Option]]) -> Iterator[list[tuple[int, Option]]]:
    """Yields options in groups whose slots overlap."""
    stretch: list[tuple[int, Option]] = []
    until_slot = -1
    for n, option in sorted(options, key=lambda way: (way[1].from_slot, way[0])):
        if stretch and option.from_slot > until_slot:
            yield sorted(stretch, key=lambda way: way[0])
            stretch = []
        stretch.append((n, option))
        until_slot = max(until_slot, option.until_slot)
    yield sorted(stretch, key=lambda way: way[0])


def _reruns(op: int, stretch: list[tuple[int, Option]]) -> RerunsOfOp:
    ranges = [(way.from_slot, way.until_slot) for _, way in stretch if way.reads is None]
    slots = sorted({way.until_slot for _, way in stretch if way.reads is not None})
    firsts, lasts = zip(*ranges, strict=True) if ranges else ((), ())
    return RerunsOfOp(
        options=tuple(stretch),
        anywhere=Rerun(op, min(firsts), max(lasts), is_exact=False) if ranges else None,
        exact={slot: Rerun(op, slot, slot, is_exact=True) for slot in slots},
    )
