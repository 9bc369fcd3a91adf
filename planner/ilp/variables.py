"""The variables of the ILP, in the solver's units (see `planner.ilp.model` for what they mean)."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from pulp import LpProblem, LpVariable
from pulp.constants import LpBinary, LpContinuous

from planner.ilp.event_slots import KeptSlots, kept_slots, least_away_bytes
from planner.problem.gaps import Gap
from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from planner.recompute.offers import NO_OFFERS, Offers


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
        gaps: Those it may use.
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
        again: g, by op, where one runs again.
        recomputed: U, likewise; empty if nothing can be rebuilt.
    """

    problem: Problem
    goal: Goal
    gaps: tuple[Gap, ...]
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
    again: dict[int, LpVariable]
    recomputed: list[LpVariable]


def units_of(problem: Problem) -> Units:
    """Returns the units a problem is solved in."""
    size_bytes = max(1, *problem.resident_bytes) / 100
    rate = max(problem.link.d2h_bytes_per_us, problem.link.h2d_bytes_per_us)
    return Units(size_bytes, size_bytes / rate)


def add_variables(problem: Problem, goal: Goal, offers: Offers = NO_OFFERS) -> Model:
    """Starts a model: its variables, and no row yet."""
    program = LpProblem(f"swap_plan_{goal.name.lower()}")
    whole = goal in (Goal.RELAXED, Goal.STALL)
    gaps = problem.whole_gaps if whole else problem.gaps
    kept = kept_slots(problem, gaps)
    kept = kept.thinned(_most_slots(gaps, offers)) if goal is Goal.RELAXED else kept
    category = LpContinuous if goal is Goal.RELAXED else LpBinary
    # Those that may find their bytes on the host already.
    sharing = [i for i, gap in enumerate(gaps) if gap.read_only or gap.reuse_index > 0]
    wraps = any(problem.wraps(gap) for gap in gaps)
    edges = _edges(kept, gaps) if goal in (Goal.STALL, Goal.CHOICE) else []

    def positive(name: str) -> LpVariable:
        return program.add_variable(name, 0)

    def over_slots(name: str) -> list[LpVariable]:
        return [positive(f"{name}_{t}") for t in kept.slots]

    return Model(
        problem=problem,
        goal=goal,
        gaps=gaps,
        kept=kept,
        program=program,
        units=units_of(problem),
        used=[program.add_variable(f"x_{i}", 0, 1, category) for i in range(len(gaps))],
        waited=over_slots("W"),
        out=over_slots("D"),
        back=over_slots("P"),
        back_after=over_slots("Q"),
        begun=over_slots("A"),
        ended=over_slots("B"),
        raised=program.add_variable("E", 0, None if goal is Goal.BUDGET else 0),
        clean={i: program.add_variable(f"c_{i}", 0, 1, category) for i in sharing},
        clean_begun=over_slots("K") if sharing else [],
        boundary=BoundaryBytes(*map(positive, ("F", "G", "Z"))) if wraps else None,
        absent={(i, t): program.add_variable(f"y_{i}_{t}", 0, 1, category) for i, t in edges},
        least_away_bytes=_least_away(kept, goal),
        offers=offers,
        dropped=[
            program.add_variable(f"z_{option.gap}_{option.until_slot}", 0, 1, category)
            for option in offers.options
        ],
        again={o: program.add_variable(f"g_{o}", 0, 1) for o in offers.op_us},
        recomputed=over_slots("U") if offers.options else [],
    )


def _most_slots(gaps: Sequence[Gap], offers: Offers) -> int:
    """How many slots a relaxation counts."""
    is_large = bool(offers.options) and len(gaps) > SETTINGS.max_ilp_gaps
    return SETTINGS.max_joint_slots if is_large else SETTINGS.max_relaxed_slots


def _least_away(kept: KeptSlots, goal: Goal) -> tuple[int, ...]:
    """R; while the budget is raised no whole storages are known, only what a slot has above it."""
    if goal is not Goal.BUDGET:
        return least_away_bytes(kept.problem, kept.slots)
    held = [kept.problem.resident_bytes[t] for t in kept.slots]
    return tuple(max(0, held_bytes - kept.problem.budget_bytes) for held_bytes in held)


def _edges(kept: KeptSlots, gaps: Sequence[Gap]) -> list[tuple[int, int]]:
    """Where being away costs a wait: over-full slots too near a gap's begin or end to copy in.

    Slots count as the gap's do. None at all if they are too many: the rows on them only tighten
    the model.
    """
    problem = kept.problem
    edges: list[tuple[int, int]] = []
    for i, gap in enumerate(gaps):
        for _, t in kept.open_over(gap):
            if out_wait_us(problem, i, t) > 0 or in_wait_us(problem, i, t) > 0:
                edges.append((i, t))
        if len(edges) > SETTINGS.max_absence_edges:
            return []
    return edges


def out_wait_us(problem: Problem, i: int, t: int) -> float:
    """What compute must wait between the anchors of gap i's begin and t for i to be away in t."""
    first_us = problem.elapsed_us[problem.gaps[i].first_slot]
    return problem.d2h_us[i] - (problem.elapsed_us[t] - first_us)


def in_wait_us(problem: Problem, i: int, t: int) -> float:
    """What it must wait from the anchor after t to the next use, for i to be away in t."""
    next_use_us = problem.elapsed_us[problem.gaps[i].next_use_slot]
    return problem.h2d_us[i] - (next_use_us - problem.elapsed_us[t + 1])
