"""How long each swap's bytes occupy the host pool.

A trip's bytes wait from its swap-out to its await. If clean trips of the same storage follow, they
stay for those as well: one copy serves them all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class HostTrip(Protocol):
    """A trip as the host pool sees it; a plan's `Swap` is one."""

    @property
    def storage(self) -> int:
        """Id of the storage."""

    @property
    def swap_out_slot(self) -> int:
        """The slot whose anchor issues the copy to the host, or gives back a clean storage."""

    @property
    def await_slot(self) -> int:
        """The slot whose anchor awaits the copy back."""

    @property
    def clean(self) -> bool:
        """Whether it relies on the copy of the storage's trip before."""


class HostNeed(NamedTuple):
    """Bytes that are occupied in the host pool.

    Attributes:
        first_slot: The slot whose anchor issues the copy to the host.
        last_slot: The slot whose anchor awaits the last copy back. Included: at one anchor copies
            to the host are issued before awaits, so these bytes are free from the next anchor on.
            If it is below `first_slot`, they are occupied across the step boundary.
        size_bytes: How many.
    """

    first_slot: int
    last_slot: int
    size_bytes: int

    @property
    def wraps(self) -> bool:
        """Whether the bytes are occupied across the step boundary."""
        return self.last_slot < self.first_slot

    def meets(self, other: "HostNeed") -> bool:
        """Whether both are occupied at some time."""
        if self.wraps and other.wraps:
            return True
        if self.wraps or other.wraps:
            around, inside = (self, other) if self.wraps else (other, self)
            return inside.last_slot >= around.first_slot or inside.first_slot <= around.last_slot
        return self.first_slot <= other.last_slot and other.first_slot <= self.last_slot


@dataclass(frozen=True)
class HostNeeds:
    """What a plan's trips occupy together.

    Attributes:
        needs: Each stretch of bytes.
        of_trip: For each trip, the index of its need.
    """

    needs: tuple[HostNeed, ...]
    of_trip: tuple[int, ...]


def host_needs(
    trips: Sequence[HostTrip], sizes_bytes: Mapping[int, int], slot_count: int
) -> HostNeeds:
    """Returns what trips occupy.

    Args:
        trips: All trips of a step.
        sizes_bytes: Bytes of each storage, by id.
        slot_count: Number of slots of the step.
    """
    by_storage: dict[int, list[int]] = {}
    for position in sorted(range(len(trips)), key=lambda n: trips[n].swap_out_slot):
        by_storage.setdefault(trips[position].storage, []).append(position)
    needs: list[HostNeed] = []
    of_trip = [0] * len(trips)
    for storage, positions in by_storage.items():
        for group in _groups(trips, positions):
            first = trips[group[0]]
            # Bytes that are never written, and so never copied again, stay for good.
            ends = (0, slot_count - 1) if first.clean else _ends(trips, group)
            for position in group:
                of_trip[position] = len(needs)
            needs.append(HostNeed(*ends, sizes_bytes[storage]))
    return HostNeeds(tuple(needs), tuple(of_trip))


def _groups(trips: Sequence[HostTrip], positions: Sequence[int]) -> list[list[int]]:
    """A storage's trips, split before each that copies; the step repeats, so the first may come
    last."""
    copying = [n for n, position in enumerate(positions) if not trips[position].clean]
    if not copying:
        return [list(positions)]
    turned = [*positions[copying[0] :], *positions[: copying[0]]]
    groups: list[list[int]] = []
    for position in turned:
        if not trips[position].clean:
            groups.append([])
        groups[-1].append(position)
    return groups


def _ends(trips: Sequence[HostTrip], group: Sequence[int]) -> tuple[int, int]:
    return trips[group[0]].swap_out_slot, trips[group[-1]].await_slot
