"""Checks a plan file: every figure of its certificate is derived again, from the files alone.

Peak, bytes and stall follow from the plan, by walking its anchors and simulating its copies. The
bounds follow from the profile: the ILP of `planner.ilp.model` and its relaxation are solved again.
With the profile it is also checked that no op uses an absent storage, as a plan holds no uses; and
from what the plan drops, the recipes are found again, and the step in which they are run.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from planner.ilp.deadline import Deadline, SolverName
from planner.plan.device_memory import unplanned_bytes
from planner.plan.host_memory import host_needs
from planner.plan.plan import BoundSource, Drop, Plan, Proof, Rebuild, RecipeOp, Swap, Without
from planner.plan.verify import derived_figures, proof_faults, same_time, structure_fault
from planner.problem.gaps import Gap, candidate_gaps
from planner.problem.problem import Problem, problem_of
from planner.recompute.offers import NO_OFFERS, Offers, offers_of
from planner.recompute.places import placed_offers
from planner.recompute.recipes import StepEffects
from planner.recompute.rewriting import RecomputedStep, rebuildings, recomputed
from profiles.hardware.links import LINKS
from profiles.schema.errors import SolverError
from profiles.schema.memory import slot_memory
from profiles.schema.profile import Profile

SOURCES = {
    "peak_without_bytes": "the largest slot",
    "peak_bytes": "walking the anchors",
    "d2h_bytes": "adding up the swaps",
    "h2d_bytes": "adding up the swaps",
    "compute_us": "adding up the slots",
    "recompute_us": "adding up the slots",
    "simulated_stall_us": "simulating the copies",
}
"""How each figure that a plan alone gives is derived."""
BOUND_TOLERANCE = 1e-6
"""How far two solutions of one relaxation may be apart, as a share of the step time: a solver meets
each row to about 1e-7 of its unit (`planner.ilp.variables.Units`), and rows add up along the
step."""


@dataclass(frozen=True, kw_only=True)
class CheckedFigure:
    """A figure of the certificate beside the one derived again.

    Both are bytes if its name ends in `_bytes`, else microseconds; they match if they are the same,
    times and the bound but for rounding. The source is how it was derived.
    """

    name: str
    stored: int | float
    derived: int | float
    source: str
    matches: bool


@dataclass(frozen=True, kw_only=True)
class Check:
    """What checking a plan found: each figure that could be derived again, and what else is wrong,
    worded with its place in the file."""

    figures: tuple[CheckedFigure, ...]
    faults: tuple[str, ...]

    @property
    def mismatches(self) -> tuple[str, ...]:
        """Everything that is wrong, in words."""
        differing = (
            f"certificate.{figure.name} is {figure.stored}, expected {figure.derived} "
            f"({figure.source})"
            for figure in self.figures
            if not figure.matches
        )
        return (*self.faults, *differing)


def check_plan(plan: Plan) -> Check:
    """Checks a plan by itself: its invariants, and each figure that follows from it."""
    fault = structure_fault(plan)
    if fault is not None:
        # Nothing can be derived from what does not hold together.
        return Check(figures=(), faults=(fault,))
    figures = tuple(_figure(plan, name, derived) for name, derived in derived_figures(plan).items())
    if not all(figure.matches for figure in figures):
        return Check(figures=figures, faults=())
    return Check(figures=figures, faults=tuple(islice(proof_faults(plan), 1)))


def check_plan_against(
    plan: Plan, profile: Profile, *, solver: SolverName | None = None, time_limit_s: float = 600.0
) -> Check:
    """Checks a plan against the profile it names, and the bound, by its own solver or another.

    Raises:
        SolverError: The solver is missing, failed, or was stopped by the time limit.
    """
    alone = check_plan(plan)
    if alone.faults:
        return alone
    fault = first_fault_against(plan, profile) or next(_size_faults(plan), None)
    if fault is not None:
        return Check(figures=alone.figures, faults=(fault,))
    named = plan.certificate.solver
    if solver is None and named not in tuple(SolverName):
        fault = f"certificate.solver is {named!r}, expected {' or '.join(SolverName)}"
        return Check(figures=alone.figures, faults=(fault,))
    bounds = _checked_bounds(plan, profile, solver or SolverName(named), time_limit_s)
    return Check(figures=(*alone.figures, *bounds), faults=())


def _figure(plan: Plan, name: str, derived: int | float) -> CheckedFigure:
    stored = getattr(plan.certificate, name)
    matches = same_time(stored, derived) if name.endswith("_us") else stored == derived
    return CheckedFigure(
        name=name, stored=stored, derived=derived, source=SOURCES[name], matches=matches
    )


def _size_faults(plan: Plan) -> Iterator[str]:
    """What the plan's own bound does not know: it is over storages that are not too small."""
    moved = [(f"swaps[{n}] moves", swap.storage) for n, swap in enumerate(plan.swaps)]
    moved += [(f"{where} drops", drop.storage) for where, drop in _drops(plan)]
    for what, storage in moved:
        size_bytes = plan.storage(storage).size_bytes
        if size_bytes < plan.min_size_bytes:
            yield (
                f"{what} {size_bytes} bytes, expected at least {plan.min_size_bytes} "
                "(min_size_bytes)"
            )


def _drops(plan: Plan) -> Iterator[tuple[str, Drop]]:
    """What is dropped, each with its place in the file."""
    for n, rebuild in enumerate(plan.rebuilds):
        for m, drop in enumerate(rebuild.drops):
            yield f"rebuilds[{n}].drops[{m}]", drop


def _checked_bounds(
    plan: Plan, profile: Profile, solver: SolverName, time_limit_s: float
) -> tuple[CheckedFigure, CheckedFigure]:
    problem = problem_of(
        profile,
        budget_bytes=plan.budget_bytes,
        link=plan.link,
        host_budget_bytes=plan.host_budget_bytes,
        min_size_bytes=plan.min_size_bytes,
        boundary=plan.boundary,
    )
    rebuilds = plan.without is not Without.RECOMPUTE
    effects = StepEffects(profile)
    offers = offers_of(effects, problem) if rebuilds else NO_OFFERS
    loose = _loose_bound(plan, problem, offers, solver, time_limit_s)
    both = (placed_offers(effects, problem), offers) if rebuilds else (offers,)
    return loose, _tight_bound(plan, problem, both, solver, time_limit_s, loose)


def _loose_bound(
    plan: Plan, problem: Problem, offers: Offers, solver: SolverName, time_limit_s: float
) -> CheckedFigure:
    from planner.ilp.solver import relaxed_bound

    about = plan.certificate
    derived_us, source = 0.0, "nothing was proved"
    if about.bound_source is not BoundSource.TRIVIAL:
        source = f"solving the relaxation with {solver.value}"
        if not problem.fits(()):
            bound = relaxed_bound(problem, solver, Deadline.within(time_limit_s), offers)
            if bound.source is not BoundSource.RELAXATION:
                raise SolverError(_unsolved(solver, "the relaxation", time_limit_s))
            derived_us = bound.stall_us
    return _bound_figure(plan, "loose_bound_beyond_us", derived_us, source)


def _tight_bound(
    plan: Plan,
    problem: Problem,
    offers: tuple[Offers, ...],
    solver: SolverName,
    time_limit_s: float,
    loose: CheckedFigure,
) -> CheckedFigure:
    """The tight bound, by the ILP for one or the other offers.

    Where the ILP was stopped, it may prove more by now, but not less.
    """
    from planner.ilp.solver import whole_bound
    from planner.problem.settings import SETTINGS

    name, about = "bound_beyond_us", plan.certificate
    if about.bound_source is not BoundSource.WHOLE_STORAGES or problem.fits(()):
        return _bound_figure(plan, name, loose.derived, loose.source)
    # With recipes the proof is that the plan is as good as the bound, wherever the ILP was stopped.
    stopped = about.proof is not Proof.OPTIMAL or any(known.options for known in offers)
    # Bounds are taken down by the solvers' tolerance once they are proven.
    enough_us = about.bound_beyond_us + BOUND_TOLERANCE * about.compute_us if stopped else math.inf
    derived_us, is_proven = loose.derived, True
    for known in offers:
        bound = whole_bound(
            problem,
            solver,
            Deadline.within(time_limit_s),
            mip_gap=0.0 if stopped else SETTINGS.mip_gap,
            enough_us=enough_us,
            offers=known,
        )
        derived_us = max(bound.stall_us, derived_us)
        is_proven &= bound.proven
        if derived_us >= about.bound_beyond_us:
            break
    if derived_us < about.bound_beyond_us and not is_proven:
        raise SolverError(_unsolved(solver, "the ILP", time_limit_s))
    if stopped:
        derived_us = min(derived_us, about.bound_beyond_us)
    # Another solver ends elsewhere within the gap that both are given.
    rounding = BOUND_TOLERANCE if solver.value == about.solver else 2 * SETTINGS.mip_gap
    source = f"solving the ILP with {solver.value}"
    return _bound_figure(plan, name, derived_us, source, rounding)


def _bound_figure(
    plan: Plan, name: str, derived_us: float, source: str, rounding: float = BOUND_TOLERANCE
) -> CheckedFigure:
    stored_us = getattr(plan.certificate, name)
    tolerance_us = rounding * (plan.certificate.compute_us + derived_us)
    matches = abs(stored_us - derived_us) <= tolerance_us
    return CheckedFigure(
        name=name, stored=stored_us, derived=derived_us, source=source, matches=matches
    )


def _unsolved(solver: SolverName, what: str, time_limit_s: float) -> str:
    return (
        f"{solver.value} did not solve {what} within {time_limit_s:.0f} s, so the bound is not "
        "checked. Give a larger --time-limit, or try the other one of --solver."
    )


def first_fault_against(plan: Plan, profile: Profile) -> str | None:
    """Returns the first way in which a plan does not fit a profile, or None if it fits."""
    return next(_faults_against(plan, profile), None)


def _faults_against(plan: Plan, profile: Profile) -> Iterator[str]:
    """Each may rely on there being none before it."""
    fields = (
        *("profile_fingerprint", "model_fingerprint", "model", "workload", "times", "device"),
        "without_checkpointing",
    )
    expected = {field: getattr(profile, field) for field in fields[1:]}
    expected["profile_fingerprint"] = profile.fingerprint()
    for field in fields:
        yield from _fault(field, getattr(plan, field), expected[field])
    yield from _fault("number of slots", len(plan.slots), len(profile.slots))
    yield from _link_faults(plan, profile)
    for t, (planned, slot) in enumerate(zip(plan.slots, profile.slots, strict=True)):
        yield from _faults(f"slots[{t}].", ("anchor", "shows"), planned, slot)
    for position, storage in enumerate(plan.storages):
        place = f"storages[{position}]."
        if storage.id >= len(profile.storages):
            yield f"{place}id is {storage.id}, the profile has no such storage"
        recorded = profile.storages[storage.id]
        yield from _faults(
            place, ("name", "kind", "size_bytes", "module", "is_mask"), storage, recorded
        )
    effects = StepEffects(profile)
    dropped = _dropped_gaps(plan, profile)
    for where, drop in _drops(plan):
        if (drop.storage, drop.slot) not in dropped:
            yield f"{where}.slot is {drop.slot}, where no gap of storage {drop.storage} begins"
    found = rebuildings(effects, dropped.values())
    if found is None:
        yield "rebuilds: what is dropped cannot all be made again, by the profile's ops"
        return
    step = recomputed(effects, found)
    yield from _recipe_faults(plan.rebuilds, step.rebuilds)
    yield from _slot_faults(plan, profile, step)
    yield from _gap_faults(plan, step)


def _dropped_gaps(plan: Plan, profile: Profile) -> dict[tuple[int, int], Gap]:
    """The gaps in which the plan drops storages, by storage and first slot."""
    slots = {(drop.storage, drop.slot) for _, drop in _drops(plan)}
    gaps = candidate_gaps(profile, min_size_bytes=0, boundary=plan.boundary) if slots else ()
    by_place = {(gap.storage, gap.first_slot): gap for gap in gaps}
    return {place: by_place[place] for place in slots & by_place.keys()}


def _recipe_faults(found: Sequence[Rebuild], expected: Sequence[Rebuild]) -> Iterator[str]:
    """The first way in which recipes are not those that the profile gives."""
    whose = "the profile gives"
    fields = {"ops": RecipeOp.model_fields, "drops": Drop.model_fields}
    for n, (ours, theirs) in enumerate(zip(found, expected, strict=False)):
        where = f"rebuilds[{n}]."
        yield from _faults(where, ("slot", "recompute_us"), ours, theirs, whose)
        for part, names in fields.items():
            one, other = getattr(ours, part), getattr(theirs, part)
            for m, (mine, its) in enumerate(zip(one, other, strict=False)):
                yield from _faults(f"{where}{part}[{m}].", names, mine, its, whose)
            yield from _fault(f"{where}number of {part}", len(one), len(other), whose)
    yield from _fault("number of rebuilds", len(found), len(expected), whose)


def _slot_faults(plan: Plan, profile: Profile, step: RecomputedStep) -> Iterator[str]:
    """Times and bytes of slots that are not those of the step that runs the recipes."""
    unplanned = unplanned_bytes(plan)
    memories = zip(slot_memory(step.profile), slot_memory(profile), strict=True)
    for t, (memory, recorded) in enumerate(memories):
        place, planned = f"slots[{t}].", plan.slots[t]
        yield from _faults(place, ("duration_us",), planned, step.profile.slots[t])
        whose = "the profile gives"
        yield from _fault(f"{place}recompute_us", planned.recompute_us, step.recompute_us[t], whose)
        yield from _faults(place, ("resident_bytes", "peak_op"), planned, memory, whose)
        yield from _fault(f"{place}without_bytes", unplanned[t], recorded.resident_bytes, whose)


def _faults(
    place: str,
    fields: Iterable[str],
    found: object,
    expected: object,
    whose: str = "the profile has",
) -> Iterator[str]:
    for field in fields:
        yield from _fault(place + field, getattr(found, field), getattr(expected, field), whose)


def _fault(
    field: str, found: object, expected: object, whose: str = "the profile has"
) -> Iterator[str]:
    if found != expected:
        yield f"{field} is {found!r}, {whose} {expected!r}"


def _link_faults(plan: Plan, profile: Profile) -> Iterator[str]:
    """A link that goes by a name of the table, but is not that link."""
    known = LINKS.get(plan.link.name)
    if known is not None and plan.link not in (known, profile.link):
        fields = type(known).model_fields
        yield from _faults("link.", fields, plan.link, known, f"link {known.name} has")


def _gap_faults(plan: Plan, step: RecomputedStep) -> Iterator[str]:
    gaps: dict[int, list[Gap]] = defaultdict(list)
    for gap in candidate_gaps(step.profile, min_size_bytes=0, boundary=plan.boundary):
        # What was rebuilt is another storage there.
        gaps[step.origins[gap.storage]].append(gap)
    arounds = [_gap_around(swap, gaps[swap.storage], len(plan.slots)) for swap in plan.swaps]
    copies = host_needs(plan.swaps, plan.host_sizes_bytes, len(plan.slots)).of_swap
    copied = {
        copy: around
        for copy, around, swap in zip(copies, arounds, plan.swaps, strict=True)
        if not swap.clean
    }
    for position, (swap, around) in enumerate(zip(plan.swaps, arounds, strict=True)):
        if around is None:
            yield (
                f"swaps[{position}] moves storage {swap.storage} from slot {swap.swap_out_slot} to "
                f"slot {swap.await_slot}, which is inside none of its gaps"
            )
        elif swap.clean and not _is_true(copied.get(copies[position]), around):
            yield (
                f"swaps[{position}].clean is true, but storage {swap.storage} is written since "
                "the last copy of it was made"
            )


def _gap_around(swap: Swap, gaps: Sequence[Gap], slot_count: int) -> Gap | None:
    """The gap a swap lies in."""
    slots_away = swap.slots_after_out(swap.await_slot, slot_count)
    for gap in gaps:
        slots_in = (swap.swap_out_slot - gap.first_slot) % slot_count
        if gap.first_slot + slots_in + slots_away <= gap.next_use_slot:
            return gap
    return None


def _is_true(copied: Gap | None, clean: Gap) -> bool:
    """Whether the copy made in one gap, if one is made, holds the bytes of a later one."""
    if copied is None or clean.read_only:
        return clean.read_only
    same_bytes = (copied.storage, copied.version) == (clean.storage, clean.version)
    return same_bytes and copied.reuse_index < clean.reuse_index
