"""The planning problem: what the model, the scheduler and the search all work on."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from planner.plan.copy_times import Engines, copy_us, engine_for
from planner.plan.host_memory import HostNeed, host_offsets, pool_bytes
from planner.plan.lanes import Direction, LaneLoad, link_load, rate_bytes_per_us
from planner.plan.plan import Boundary
from planner.problem.gaps import (
    Gap,
    candidate_gaps,
    gap_parts,
    useful_gaps,
)
from planner.problem.settings import SETTINGS
from planner.problem.smallest_size import default_min_size_bytes
from profiles.schema.link import CopyMethod, host_size_bytes
from profiles.schema.memory import slot_memory
from profiles.schema.profile import Link, Profile

REPEATED_STEPS = SETTINGS.max_steps + 2
"""A copy may be due in the step after the last one walked."""
HOST_GRANULE_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Which gaps to use, and when, so that a step stays within its budget and waits least.

    A chosen set of gaps is written as their indices in `gaps`. Slots of gaps count on past the end
    of the step (see `planner.problem.gaps.Gap`).

    Attributes:
        durations_us: Time of each slot with nothing moved.
        resident_bytes: Bytes resident in each slot with nothing moved.
        whole_gaps: The candidates, in order of their first slot.
        link: Rates and latency.
        boundary: Whether swaps may wrap round the step boundary.
        min_size_bytes: Smaller storages are no candidates.
        budget_bytes: Device bytes to stay within.
        host_budget_bytes: Host bytes to stay within; None for no limit.
        part_gaps: More candidates: parts of the whole ones (see `planner.problem.gaps`).
    """

    durations_us: tuple[float, ...]
    resident_bytes: tuple[int, ...]
    whole_gaps: tuple[Gap, ...]
    link: Link
    boundary: Boundary
    min_size_bytes: int
    budget_bytes: int
    host_budget_bytes: int | None
    part_gaps: tuple[Gap, ...] = ()

    @cached_property
    def gaps(self) -> tuple[Gap, ...]:
        """All candidates: whole gaps, then parts."""
        return self.whole_gaps + self.part_gaps

    @cached_property
    def whole_set(self) -> frozenset[int]:
        """Every whole gap: no set leaves less on the device."""
        return frozenset(range(len(self.whole_gaps)))

    @cached_property
    def swappable(self) -> frozenset[int]:
        """Every whole gap that the host has room for alone, if no other is used."""
        if self.host_budget_bytes is None:
            return self.whole_set
        sizes_bytes, room_bytes = self.host_sizes_bytes, self.host_budget_bytes
        return frozenset(
            i for i in self.whole_set if sizes_bytes[self.whole_gaps[i].storage] <= room_bytes
        )

    @property
    def slot_count(self) -> int:
        """Number of slots."""
        return len(self.durations_us)

    @property
    def compute_us(self) -> float:
        """Time of the step with nothing moved."""
        return self.elapsed_us[self.slot_count]

    @cached_property
    def elapsed_us(self) -> tuple[float, ...]:
        """When each slot of two steps starts with nothing moved; the last entry is their end."""
        return tuple(accumulate((*self.durations_us, *self.durations_us), initial=0.0))

    @cached_property
    def repeated_us(self) -> tuple[float, ...]:
        """When each slot of many steps starts with nothing moved."""
        begins_us = self.compute_us * np.arange(REPEATED_STEPS)
        once_us = np.array(self.elapsed_us[: self.slot_count])
        return tuple(np.add.outer(begins_us, once_us).ravel().tolist())

    @cached_property
    def engines(self) -> Engines:
        """What carries each storage that the copy engine is not the fastest for, by id."""
        chosen = {
            gap.storage: engine_for(self.link, gap.size_bytes, is_mask=gap.is_mask)
            for gap in (self.gaps if self.link.engines else ())
        }
        return {i: engine for i, engine in chosen.items() if engine is not CopyMethod.DMA}

    @cached_property
    def d2h_us(self) -> tuple[float, ...]:
        """How long each gap's copy to the host takes; in a batch it may wait for its neighbours."""
        return self._copies_us(Direction.D2H)

    @cached_property
    def h2d_us(self) -> tuple[float, ...]:
        """How long each gap's copy back takes, likewise."""
        return self._copies_us(Direction.H2D)

    @cached_property
    def loads(self) -> Mapping[Direction, tuple[LaneLoad, ...]]:
        """What each gap's copies put on their lanes."""
        copies_us = {Direction.D2H: self.d2h_us, Direction.H2D: self.h2d_us}
        # Kernels pay none of the link's latency; what was measured of them holds all they take.
        return {
            direction: tuple(
                LaneLoad(0.0, us)
                if gap.storage in self.engines
                else link_load(self.link, direction, gap.size_bytes)
                for gap, us in zip(self.gaps, copies_us[direction], strict=True)
            )
            for direction in Direction
        }

    @cached_property
    def host_sizes_bytes(self) -> Mapping[int, int]:
        """Bytes that each storage takes in the host pool, by id.

        Kernels move 16 bytes at a time where both ends allow it, so with them all are multiples.
        """
        granule = HOST_GRANULE_BYTES if self.engines else 1
        return {gap.storage: -(-self._host_bytes(gap) // granule) * granule for gap in self.gaps}

    @cached_property
    def packed_away_bytes(self) -> int:
        """How much less than their device bytes all storages together take on the host, at most."""
        sizes_bytes = {gap.storage: gap.size_bytes - self._host_bytes(gap) for gap in self.gaps}
        return sum(sizes_bytes.values())

    @cached_property
    def lane_gain(self) -> float:
        """Most device bytes that move for one byte of the link's rate; 1 with no kernel."""
        gains = (
            gap.size_bytes / (us * rate_bytes_per_us(self.link, direction))
            for direction, copies_us in ((Direction.D2H, self.d2h_us), (Direction.H2D, self.h2d_us))
            for gap, us in zip(self.gaps, copies_us, strict=True)
            if gap.storage in self.engines
        )
        return max([1.0, *gains])

    @cached_property
    def next_over_slot(self) -> tuple[int, ...]:
        """For each slot, the first from there on that does not fit with nothing moved."""
        count = self.slot_count
        over = [t for t in range(count) if self.resident_bytes[t] > self.budget_bytes]
        over = [*over, *(t + count for t in over), 2 * count]
        return tuple(over[bisect_left(over, t)] for t in range(count))

    def _copies_us(self, direction: Direction) -> tuple[float, ...]:
        return tuple(
            copy_us(self.link, direction, gap.size_bytes, self.engine_of(gap.storage))
            for gap in self.gaps
        )

    def engine_of(self, storage: int) -> CopyMethod:
        """Returns what carries a storage."""
        return self.engines.get(storage, CopyMethod.DMA)

    def _host_bytes(self, gap: Gap) -> int:
        return host_size_bytes(self.engine_of(gap.storage), gap.size_bytes)

    def open_slices(self, gap: Gap) -> tuple[slice, ...]:
        """The slots a gap is open in, each below the slot count: one slice, or two if it wraps."""
        count = self.slot_count
        if gap.next_use_slot <= count:
            return (slice(gap.first_slot, gap.next_use_slot),)
        return (slice(gap.first_slot, count), slice(0, gap.next_use_slot - count))

    def wraps(self, gap: Gap) -> bool:
        """Whether a gap goes on in the next step."""
        return gap.next_use_slot >= self.slot_count

    def clash(self, one: int, other: int) -> bool:
        """Whether two candidates are parts of one gap that cannot both be used."""
        first, second = self.gaps[one], self.gaps[other]
        if first.storage != second.storage:
            return False
        # Two swaps of one storage need an anchor between await and swap-out.
        return any(
            first.first_slot + shift <= second.next_use_slot
            and second.first_slot <= first.next_use_slot + shift
            for shift in (-self.slot_count, 0, self.slot_count)
        )

    def floor_bytes(self, chosen: Iterable[int]) -> NDArray[np.int64]:
        """Returns the fewest bytes each slot can hold: chosen gaps away from end to end."""
        first_slots, end_slots, sizes_bytes = self._absences[:, np.fromiter(chosen, dtype=np.intp)]
        change = np.zeros(self.slot_count, dtype=np.int64)
        np.subtract.at(change, first_slots, sizes_bytes)
        np.add.at(change, end_slots, sizes_bytes)
        change[0] -= sizes_bytes[end_slots < first_slots].sum()
        return self._resident_bytes + np.cumsum(change)

    @cached_property
    def _absences(self) -> NDArray[np.int64]:
        """Of each gap its first slot, the first slot past it in the step, and its bytes."""
        rows = [(g.first_slot, g.next_use_slot % self.slot_count, g.size_bytes) for g in self.gaps]
        return np.array(rows, dtype=np.int64).reshape(-1, 3).T

    @cached_property
    def _resident_bytes(self) -> NDArray[np.int64]:
        return np.array(self.resident_bytes, dtype=np.int64)

    def fits(self, chosen: Iterable[int]) -> bool:
        """Whether a chosen set can meet the budget: a release may be forced anywhere in a gap."""
        return self.least_budget_bytes(chosen) <= self.budget_bytes

    def least_budget_bytes(self, chosen: Iterable[int]) -> int:
        """Returns the smallest budget that a chosen set can meet."""
        return int(self.floor_bytes(chosen).max())

    def fewest_that_fit(self, order: Sequence[int]) -> tuple[int, ...]:
        """Returns the fewest gaps, taken in this order, that meet the budget; all if none do."""
        count = bisect_left(range(len(order)), True, key=lambda n: self.fits(order[:n]))
        return tuple(order[:count])

    def idle_us(self, i: int) -> float:
        """How long a gap lasts with nothing moved."""
        gap = self.gaps[i]
        return self.elapsed_us[gap.next_use_slot] - self.elapsed_us[gap.first_slot]

    def whole_pool_bytes(self, chosen: Iterable[int]) -> int:
        """Returns the host pool that a chosen set takes, away from end to end, each with a copy."""
        sizes, count = self.host_sizes_bytes, self.slot_count
        needs = [
            HostNeed(gap.first_slot, gap.next_use_slot % count, sizes[gap.storage])
            for gap in (self.gaps[i] for i in sorted(chosen))
        ]
        return pool_bytes(needs, host_offsets(needs))

    def whole_fits_host(self, chosen: Iterable[int]) -> bool:
        """Whether the host pool can hold every chosen gap from end to end."""
        if self.host_budget_bytes is None:
            return True
        return self.whole_pool_bytes(chosen) <= self.host_budget_bytes

    def free_us(self, i: int) -> float:
        """Time a gap leaves beside its two copies: Capuchin's free time (Peng et al. 2020)."""
        return self.idle_us(i) - self.d2h_us[i] - self.h2d_us[i]

    def size_times_idle(self, i: int) -> float:
        """A gap's bytes times how long it lasts."""
        return self.gaps[i].size_bytes * self.idle_us(i)


def problem_of(
    profile: Profile,
    *,
    budget_bytes: int,
    link: Link,
    host_budget_bytes: int | None = None,
    min_size_bytes: int | None = None,
    boundary: Boundary = Boundary.PERIODIC,
    every_gap: bool = False,
) -> Problem:
    """Returns the problem of planning a step; the same arguments always give the same one.

    Args:
        profile: The step.
        budget_bytes: Device bytes to stay within.
        link: The link to plan for.
        host_budget_bytes: Host bytes to stay within; None for no limit.
        min_size_bytes: Smaller storages stay; if None, see `planner.problem.smallest_size`.
        boundary: Whether swaps may wrap round the step boundary.
        every_gap: Whether to keep the gaps that this budget has no use for.
    """
    resident_bytes = tuple(slot.resident_bytes for slot in slot_memory(profile))
    if min_size_bytes is None:
        every_size = candidate_gaps(profile, 1, boundary)
        min_size_bytes = default_min_size_bytes(every_size, resident_bytes, budget_bytes)
    gaps = candidate_gaps(profile, min_size_bytes, boundary)
    whole = Problem(
        durations_us=tuple(slot.duration_us for slot in profile.slots),
        resident_bytes=resident_bytes,
        whole_gaps=gaps if every_gap else useful_gaps(gaps, resident_bytes, budget_bytes),
        link=link,
        boundary=boundary,
        min_size_bytes=min_size_bytes,
        budget_bytes=budget_bytes,
        host_budget_bytes=host_budget_bytes,
    )
    return with_parts(whole)


def problem_like(problem: Problem, profile: Profile) -> Problem:
    """Returns the problem of planning another step for the same budgets and link."""
    return problem_of(
        profile,
        budget_bytes=problem.budget_bytes,
        link=problem.link,
        host_budget_bytes=problem.host_budget_bytes,
        min_size_bytes=problem.min_size_bytes,
        boundary=problem.boundary,
    )


def with_parts(problem: Problem) -> Problem:
    """Returns a problem of whole gaps, with parts of them where the host budget needs those."""
    if problem.whole_fits_host(problem.whole_set):
        return problem
    parts = gap_parts(problem.whole_gaps, problem.slot_count)
    useful = useful_gaps(parts, problem.resident_bytes, problem.budget_bytes)
    return replace(problem, part_gaps=useful)
