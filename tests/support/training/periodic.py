"""The hardest periodic plan: whatever can be away across the step boundary is, and each host copy
serves as many trips as it can."""

from functools import cache

from planner.plan.device_memory import planned_bytes
from planner.plan.host_memory import host_needs, host_offsets, pool_bytes
from planner.plan.plan import Boundary, Plan, Swap
from planner.plan.simulate import simulate_plan
from planner.problem.gaps import candidate_gaps
from profiles.schema.profile import Profile
from tests.support.training.everything_away import everything_away
from tests.support.training.recorded import recorded


@cache
def periodic_plan(name: str) -> Plan:
    """The hardest periodic plan of one of the small models."""
    return periodic(recorded(name))


@cache
def leaving_plan(name: str) -> Plan:
    """The same for one of the small models, with copies to the host under way at the boundary."""
    return leaving_at_boundary(periodic_plan(name))


@cache
def returning_plan(name: str) -> Plan:
    """The same for one of the small models, with copies back under way at the boundary."""
    return returning_at_boundary(periodic_plan(name))


def periodic(profile: Profile) -> Plan:
    """Swaps every gap of a profile from end to end, the clean ones without a copy."""
    plan = everything_away(profile, boundary=Boundary.PERIODIC)
    gaps = {
        (gap.storage, gap.first_slot): gap for gap in candidate_gaps(profile, 1, Boundary.PERIODIC)
    }
    swaps = [
        swap.model_copy(update={"clean": gap.turn > 0 or gap.lasting})
        for swap in plan.swaps
        for gap in (gaps[swap.storage, swap.swap_out_slot],)
    ]
    return with_swaps(plan, swaps)


def with_swaps(plan: Plan, swaps: list[Swap]) -> Plan:
    """Gives a plan other swaps, lays out its host pool anew, and certifies it anew."""
    swaps = sorted(swaps, key=lambda swap: swap.swap_out_slot)
    sizes_bytes = {storage.id: storage.size_bytes for storage in plan.storages}
    found = host_needs(swaps, sizes_bytes, len(plan.slots))
    offsets = host_offsets(found.needs)
    placed = tuple(
        swap.model_copy(update={"host_offset_bytes": offsets[need]})
        for swap, need in zip(swaps, found.of_trip, strict=True)
    )
    pool = {"swaps": placed, "host_pool_bytes": pool_bytes(found.needs, offsets)}
    drawn = plan.model_copy(update=pool)
    peak_bytes = max(planned_bytes(drawn))
    certificate = plan.certificate.model_copy(
        update={
            "peak_bytes": peak_bytes,
            "d2h_bytes": sum(sizes_bytes[swap.storage] for swap in swaps if not swap.clean),
            "h2d_bytes": sum(sizes_bytes[swap.storage] for swap in swaps),
            "simulated_stall_us": simulate_plan(drawn).total_stall_us,
        }
    )
    certified = drawn.model_copy(update={"certificate": certificate, "budget_bytes": peak_bytes})
    return Plan.model_validate_json(certified.model_dump_json())


def leaving_at_boundary(plan: Plan) -> Plan:
    """Lets trips that wrap give their bytes back in the next step only."""
    return with_swaps(plan, [_released_late(swap) if swap.wraps else swap for swap in plan.swaps])


def returning_at_boundary(plan: Plan) -> Plan:
    """Lets trips that wrap take their bytes again before the step ends."""
    last = len(plan.slots) - 1
    return with_swaps(
        plan,
        [
            swap.model_copy(update={"swap_in_slot": last})
            if swap.wraps and swap.release_slot < last
            else swap
            for swap in plan.swaps
        ],
    )


def clean_swaps_late(plan: Plan) -> Plan:
    """Lets clean trips begin one slot before they end, so that their storages are there until
    then."""
    return with_swaps(plan, [_begun_late(swap) for swap in plan.swaps])


def _begun_late(swap: Swap) -> Swap:
    if not swap.clean or swap.wraps:
        return swap
    slot = swap.await_slot - 1
    return swap.model_copy(update={"swap_out_slot": slot, "release_slot": slot})


def _released_late(swap: Swap) -> Swap:
    if swap.clean or swap.swap_in_slot == 0:
        return swap
    return swap.model_copy(update={"release_slot": 0})
