"""The hardest plans a runtime can be given: every gap of every storage is spent on the host.

Copies are waited for at both ends, so they are slow, and they say nothing of planning; but they
move whatever can be moved, at every place where that is allowed.
"""

from collections.abc import Iterable

from planner.build_plan import Solution, build_plan
from planner.ilp.deadline import SolverName
from planner.plan.host_memory import host_needs, host_offsets
from planner.plan.plan import Boundary, BoundSource, Plan, Proof, Swap
from planner.plan.verify import derived_figures, verified
from planner.problem.problem import problem_of
from planner.problem.timed_swap import TimedSwap
from profiles.schema.profile import Profile

LEAST_SLOTS = 4
"""Of a swap that can be away for less than from its first anchor to its last."""


def everything_away(
    profile: Profile,
    *,
    min_size_bytes: int = 1,
    boundary: Boundary = Boundary.RESIDENT,
    shares_copies: bool = False,
) -> Plan:
    """Returns the plan that swaps every gap from end to end; its budget is what that needs.

    Args:
        profile: The step.
        min_size_bytes: Smaller storages stay.
        boundary: Whether swaps may wrap round the step boundary.
        shares_copies: Whether a host copy serves as many swaps as it can.
    """
    problem = problem_of(
        profile,
        budget_bytes=profile.peak_bytes,
        link=profile.link,
        host_budget_bytes=None,
        min_size_bytes=min_size_bytes,
        boundary=boundary,
        every_gap=True,
    )
    swaps = (
        TimedSwap(
            gap=number,
            storage=gap.storage,
            swap_out_slot=gap.first_slot,
            release_slot=gap.first_slot,
            swap_in_slot=gap.next_use_slot,
            await_slot=gap.next_use_slot,
            clean=shares_copies and (gap.reuse_index > 0 or gap.read_only),
        )
        for number, gap in enumerate(problem.whole_gaps)
    )
    solution = Solution(
        problem=problem,
        chosen=problem.whole_set,
        swaps=tuple(sorted(swaps, key=lambda swap: (swap.swap_out_slot, swap.storage))),
        loose_bound_beyond_us=0.0,
        bound_beyond_us=0.0,
        bound_source=BoundSource.TRIVIAL,
        proof=Proof.FEASIBLE,
    )
    plan = build_plan(profile, solution, solver=SolverName.HIGHS, seconds=0.0)
    return certified(plan)


def periodic(profile: Profile) -> Plan:
    """Returns the same plan round the step boundary, the clean swaps without a copy."""
    return everything_away(profile, boundary=Boundary.PERIODIC, shares_copies=True)


def certified(plan: Plan) -> Plan:
    """Derives anew what a plan says of its swaps; its budget is what they need."""
    figures = derived_figures(plan)
    nothing_proved = {
        "loose_bound_beyond_us": 0.0,
        "bound_beyond_us": 0.0,
        "bound_source": BoundSource.TRIVIAL,
        "proof": Proof.FEASIBLE,
    }
    found = plan.model_copy(
        update={
            "budget_bytes": figures["peak_bytes"],
            "host_pool_bytes": plan.used_host_bytes,
            "certificate": plan.certificate.model_copy(update=figures | nothing_proved),
        }
    )
    return verified(Plan.model_validate_json(found.model_dump_json()))


def with_swaps(plan: Plan, swaps: Iterable[Swap]) -> Plan:
    """Gives a plan other swaps, with a host pool laid out and a certificate derived anew."""
    in_order = tuple(sorted(swaps, key=lambda swap: swap.swap_out_slot))
    changed = plan.model_copy(update={"swaps": in_order})
    found = host_needs(in_order, changed.host_sizes_bytes, len(plan.slots))
    offsets = host_offsets(found.needs)
    placed = (
        swap.model_copy(update={"host_offset_bytes": offsets[need]})
        for swap, need in zip(in_order, found.of_swap, strict=True)
    )
    return certified(plan.model_copy(update={"swaps": tuple(placed)}))


def leaving_at_boundary(plan: Plan) -> Plan:
    """Has swaps that wrap give their bytes back in the next step only."""
    return with_swaps(plan, (_released_late(swap) if swap.wraps else swap for swap in plan.swaps))


def returning_at_boundary(plan: Plan) -> Plan:
    """Has swaps that wrap take their bytes again before the step ends."""
    last = len(plan.slots) - 1
    return with_swaps(
        plan,
        (
            swap.model_copy(update={"swap_in_slot": last})
            if swap.wraps and swap.release_slot < last
            else swap
            for swap in plan.swaps
        ),
    )


def overlapping(plan: Plan) -> Plan:
    """Has bytes given back late and taken again early, where there is time."""
    return with_swaps(plan, map(_overlapping, plan.swaps))


def _overlapping(swap: Swap) -> Swap:
    if swap.clean or swap.await_slot - swap.swap_out_slot < LEAST_SLOTS:
        return swap
    middle = (swap.swap_out_slot + swap.await_slot) // 2
    return swap.model_copy(update={"release_slot": middle, "swap_in_slot": middle + 1})


def clean_swaps_late(plan: Plan) -> Plan:
    """Has clean swaps begin one slot before they end; until then their storages are resident."""
    return with_swaps(plan, map(_begun_late, plan.swaps))


def _begun_late(swap: Swap) -> Swap:
    if not swap.clean or swap.wraps:
        return swap
    slot = swap.await_slot - 1
    return swap.model_copy(update={"swap_out_slot": slot, "release_slot": slot})


def _released_late(swap: Swap) -> Swap:
    if swap.clean or swap.swap_in_slot == 0:
        return swap
    return swap.model_copy(update={"release_slot": 0})
