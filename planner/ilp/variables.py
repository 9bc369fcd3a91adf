"""The variables of the ILP, in the solver's units (see `planner.ilp.model` for what they mean)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property

from pulp import LpProblem, LpVariable
from pulp.constants import LpBinary, LpContinuous

from planner.ilp.event_slots import KeptSlots, kept_slots, least_away_bytes
from planner.ilp.reruns import Rerun, RerunsOfOp, reruns_of
from planner.problem.gaps import Gap, last_reuses
from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from planner.recompute.offers import Offers


class Goal(Enum):
    """What a model is solved for."""

    RELAXED = auto()
    """The loose bound: stall alone, x between 0 and 1, bytes that flow."""
    STALL = auto()
    """The tight bound: stall alone, x binary, whole storages."""
    CHOICE = auto()
    """A set of gaps: stall, then bytes moved, x binary, whole host buffers."""
    BUDGET = auto()
    """The smallest budget that can be met, x binary, whole host buffers; time does not matter."""


@dataclass(frozen=True)
class Units:
    """The solver's units: solvers compare with absolute tolerances, so numbers should be near 1.

    Attributes:
        size_bytes: One unit of memory: 1% of the peak with nothing moved.
        time_us: One unit of time: that many bytes over the faster lane.
    """

    size_bytes: float
    time_us: float


@dataclass(frozen=True)
class BoundaryBytes:
    """Where the bytes of used gaps that wrap are when a step begins.

    Attributes:
        leaving: F: not yet copied to the host.
        early: G: copied back before they are used.
        away: Z: on the host alone.
    """

    leaving: LpVariable
    early: LpVariable
    away: LpVariable


@dataclass(frozen=True)
class Model:
    """A PuLP problem and its variables.

    Attributes:
        problem: What it was built from.
        goal: What it is solved for.
        gaps: Those it may use: the problem's, then what is left of one after each option that ends
            it early.
        origins: For each of them, the index of the gap in the problem that it is of.
        late: By option that ends a gap early, what is left of the gap.
        kept: The slots it counts; variables of slots are in their order.
        program: The PuLP problem.
        units: What its numbers are counted in.
        used: x.
        waited: W.
        out: D.
        back: P.
        back_after: Q.
        begun: A.
        ended: B.
        raised: E.
        clean: c, by gap, where a host copy can be shared.
        clean_begun: K, if any c is there.
        boundary: F, G and Z, if any gap wraps.
        absent: y, by gap and slot, where it is not simply x.
        least_away_bytes: R, by kept slot.
        offers: What can be rebuilt.
        dropped: z, by option.
        reruns: Which ops may be run again, and where.
        again: g, of the exact ones of those, and h.
        recomputed: U, likewise; empty if nothing can be rebuilt.
        swapped_later: q, by option.
        later_out: L; empty if there is no q.
        pinches: Slots for which (10) to (12) and (22) are asked.
        read: n, by storage and slot.
    """

    problem: Problem
    goal: Goal
    gaps: tuple[Gap, ...]
    origins: tuple[int, ...]
    late: dict[int, int]
    kept: KeptSlots
    program: LpProblem
    units: Units
    used: list[LpVariable]
    waited: list[LpVariable]
    out: list[LpVariable]
    back: list[LpVariable]
    back_after: list[LpVariable]
    begun: list[LpVariable]
    ended: list[LpVariable]
    raised: LpVariable
    clean: dict[int, LpVariable]
    clean_begun: list[LpVariable]
    boundary: BoundaryBytes | None
    absent: dict[tuple[int, int], LpVariable]
    least_away_bytes: tuple[int, ...]
    offers: Offers
    dropped: list[LpVariable]
    reruns: tuple[RerunsOfOp, ...]
    again: dict[Rerun, LpVariable]
    recomputed: list[LpVariable]
    swapped_later: dict[int, LpVariable]
    later_out: list[LpVariable]
    pinches: frozenset[int]
    read: dict[tuple[int, int], LpVariable]

    @cached_property
    def begins(self) -> tuple[int, ...]:
        """Slots in which a gap begins."""
        return tuple(sorted({gap.first_slot for gap in self.gaps}))

    @property
    def whole_count(self) -> int:
        """How many of the gaps are the problem's own."""
        return len(self.gaps) - len(self.late)


def units_of(problem: Problem) -> Units:
    """Returns the units a problem is solved in."""
    size_bytes = max(1, *problem.resident_bytes) / 100
    rate = max(problem.link.d2h_bytes_per_us, problem.link.h2d_bytes_per_us)
    return Units(size_bytes, size_bytes / rate)


def add_variables(problem: Problem, goal: Goal, offers: Offers) -> Model:
    """Starts a model: its variables, and no row yet."""
    program = LpProblem(f"swap_plan_{goal.name.lower()}")
    whole = goal in (Goal.RELAXED, Goal.STALL)
    first = problem.whole_gaps if whole else problem.gaps
    gaps, origins, late = _with_late(first, offers)
    kept = _kept(problem, goal, gaps, offers)
    exact = goal in (Goal.STALL, Goal.CHOICE)
    pinches = _pinches(problem, kept.slots) if offers.whole_bytes else frozenset(kept.slots)
    edges = _edges(kept, gaps, origins, offers, pinches) if exact else []
    later = _swapped_later(first, offers)
    reruns = tuple(reruns_of(offers))
    # Those that may find their bytes on the host already.
    sharing = [i for i, gap in enumerate(first) if gap.read_only or gap.reuse_index > 0]
    wraps = any(problem.wraps(gap) for gap in gaps)

    def category(i: int) -> str:
        parts = goal is Goal.RELAXED or gaps[i].size_bytes < offers.whole_bytes
        return str(LpContinuous if parts else LpBinary)

    def over_slots(name: str) -> list[LpVariable]:
        return [program.add_variable(f"{name}_{t}", 0) for t in kept.slots]

    return Model(
        problem=problem,
        goal=goal,
        gaps=gaps,
        origins=origins,
        late=late,
        kept=kept,
        program=program,
        units=units_of(problem),
        used=[program.add_variable(f"x_{i}", 0, 1, category(i)) for i in range(len(gaps))],
        waited=over_slots("W"),
        out=over_slots("D"),
        back=over_slots("P"),
        back_after=over_slots("Q"),
        begun=over_slots("A"),
        ended=over_slots("B"),
        raised=program.add_variable("E", 0, None if goal is Goal.BUDGET else 0),
        clean={i: program.add_variable(f"c_{i}", 0, 1, category(i)) for i in sharing},
        clean_begun=over_slots("K") if sharing else [],
        boundary=_boundary(program) if wraps else None,
        absent={(i, t): program.add_variable(f"y_{i}_{t}", 0, 1, category(i)) for i, t in edges},
        least_away_bytes=_least_away(kept, goal),
        offers=offers,
        dropped=[
            program.add_variable(f"z_{option.gap}_{option.until_slot}", 0, 1, category(option.gap))
            for option in offers.options
        ],
        reruns=reruns,
        again=_again(program, reruns),
        recomputed=over_slots("U") if offers.options else [],
        swapped_later={n: program.add_variable(f"q_{n}", 0, 1) for n in later},
        later_out=over_slots("L") if later else [],
        pinches=pinches,
        read=_reads(program, offers) if exact else {},
    )


def _again(program: LpProblem, reruns: Sequence[RerunsOfOp]) -> dict[Rerun, LpVariable]:
    every = (rerun for of_op in reruns for rerun in of_op.reruns)
    return {run: program.add_variable("g_{}_{}_{}_{:d}".format(*run), 0, 1) for run in every}


def _reads(program: LpProblem, offers: Offers) -> dict[tuple[int, int], LpVariable]:
    return {
        (storage, slot): program.add_variable(f"n_{storage}_{slot}", 0, 1)
        for storage, slots in read_slots(offers).items()
        for slot in slots
    }


def _swapped_later(gaps: Sequence[Gap], offers: Offers) -> list[int]:
    """Options after which a storage may leave a copy on the host that makes a later gap clean."""
    last = last_reuses(gaps)
    ways = ((n, way, gaps[way.gap]) for n, way in enumerate(offers.options))
    return [
        n
        for n, way, gap in ways
        if way.is_to_anywhere(gap) and gap.reuse_index < last[gap.storage, gap.version]
    ]


def _boundary(program: LpProblem) -> BoundaryBytes:
    return BoundaryBytes(*(program.add_variable(name, 0) for name in ("F", "G", "Z")))


def _with_late(
    first: tuple[Gap, ...], offers: Offers
) -> tuple[tuple[Gap, ...], tuple[int, ...], dict[int, int]]:
    """The gaps of a model, the gap of the problem that each is of, and by option its late one."""
    ways = {n: way for n, way in enumerate(offers.options) if way.leaves_some(first[way.gap])}
    gaps = (*first, *(way.left_of(first[way.gap]) for way in ways.values()))
    origins = (*range(len(first)), *(way.gap for way in ways.values()))
    return gaps, origins, {n: len(first) + m for m, n in enumerate(ways)}


def _most_slots(problem: Problem, offers: Offers) -> int:
    """How many slots a relaxation counts."""
    ilp_follows = bool(offers.options) and len(problem.whole_gaps) <= SETTINGS.max_ilp_gaps
    return SETTINGS.max_joint_slots if ilp_follows else SETTINGS.max_relaxed_slots


def _kept(problem: Problem, goal: Goal, gaps: Sequence[Gap], offers: Offers) -> KeptSlots:
    large = [gap for gap in gaps if gap.size_bytes >= offers.whole_bytes]
    kept = kept_slots(problem, large, 0 if offers.whole_bytes else SETTINGS.max_kept_slots)
    return kept.thinned(_most_slots(problem, offers)) if goal is Goal.RELAXED else kept


def _least_away(kept: KeptSlots, goal: Goal) -> tuple[int, ...]:
    """R; while the budget is raised no whole storages are known, only what a slot has above it."""
    if goal is not Goal.BUDGET:
        return least_away_bytes(kept.problem, kept.slots)
    held = [kept.problem.resident_bytes[t] for t in kept.slots]
    return tuple(max(0, held_bytes - kept.problem.budget_bytes) for held_bytes in held)


def _pinches(problem: Problem, slots: Sequence[int]) -> frozenset[int]:
    """Slots with less room than those before and after them."""
    own_bytes = [0] * problem.slot_count
    for gap in problem.whole_gaps:
        for part in problem.open_slices(gap):
            for t in range(part.start, part.stop):
                own_bytes[t] += gap.size_bytes
    over = [t for t in slots if problem.resident_bytes[t] > problem.budget_bytes]
    rooms = [problem.budget_bytes - problem.resident_bytes[t] + own_bytes[t] for t in over]
    least = [
        t
        for k, t in enumerate(over)
        if (k == 0 or rooms[k - 1] > rooms[k]) and (k + 1 == len(over) or rooms[k + 1] >= rooms[k])
    ]
    return frozenset(least)


def _edges(
    kept: KeptSlots,
    gaps: Sequence[Gap],
    origins: Sequence[int],
    offers: Offers,
    pinches: frozenset[int],
) -> list[tuple[int, int]]:
    """Where being away costs a wait: over-full slots too near a gap's begin or end to copy in, or
    too near a recipe that reads its storage.

    Slots count as the gap's do. None at all if they are too many: the rows on them only tighten
    the model.
    """
    problem = kept.problem
    edges: list[tuple[int, int]] = []
    reads = read_slots(offers)
    for i, gap in enumerate(gaps):
        if gap.size_bytes < offers.whole_bytes:
            continue
        ends = reads.get(gap.storage, ())
        for k, t in kept.open_over(gap):
            if kept.slots[k] in pinches and (
                out_wait_us(problem, origins[i], gap, t) > 0
                or in_wait_us(problem, origins[i], t, gap.next_use_slot) > 0
                or any(
                    t == slot or (t < slot and in_wait_us(problem, origins[i], t, slot) > 0)
                    for slot in ends
                    if gap.first_slot <= slot < gap.next_use_slot
                )
            ):
                edges.append((i, t))
        if len(edges) > SETTINGS.max_absence_edges:
            return []
    return edges


def read_slots(offers: Offers) -> dict[int, tuple[int, ...]]:
    """Returns, by storage, the slots of options that must find it there."""
    slots: dict[int, set[int]] = {}
    for option in offers.options:
        for storage in option.reads or ():
            slots.setdefault(storage, set()).add(option.until_slot)
    return {storage: tuple(sorted(at)) for storage, at in slots.items()}


def out_wait_us(problem: Problem, i: int, gap: Gap, t: int) -> float:
    """What compute must wait between the anchors of a gap's begin and t for it to be away in t.

    Copies take as long as gap i's of the problem.
    """
    first_us = problem.elapsed_us[gap.first_slot]
    return problem.d2h_us[i] - (problem.elapsed_us[t] - first_us)


def in_wait_us(problem: Problem, i: int, t: int, next_use_slot: int) -> float:
    """What it must wait from the anchor after t to a use for gap i to be away in t."""
    next_use_us = problem.elapsed_us[next_use_slot]
    return problem.h2d_us[i] - (next_use_us - problem.elapsed_us[t + 1])
