"""The hardest periodic plan: whatever can be away across the step boundary is, and each host copy
serves as many trips as it can."""

from functools import cache

from planner.boundary import Boundary
from planner.gaps import candidate_gaps
from planner.host_needs import host_needs
from planner.host_pool import host_offsets, pool_bytes
from planner.plan import Plan, Swap
from planner.simulate import simulate_plan
from profiles.profile import Profile
from tests.everything_away import everything_away
from tests.training import recorded


@cache
def periodic_plan(name: str) -> Plan:
    """The hardest periodic plan of one of the small models."""
    return periodic(recorded(name))


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
    sizes_bytes = {storage.id: storage.size_bytes for storage in plan.storages}
    found = host_needs(swaps, sizes_bytes, len(plan.slots))
    offsets = host_offsets(found.needs)
    placed = tuple(
        swap.model_copy(update={"host_offset_bytes": offsets[need]})
        for swap, need in zip(swaps, found.of_trip, strict=True)
    )
    pool = {"swaps": placed, "host_pool_bytes": pool_bytes(found.needs, offsets)}
    drawn = plan.model_copy(update=pool)
    certificate = plan.certificate.model_copy(
        update={
            "d2h_bytes": sum(sizes_bytes[swap.storage] for swap in swaps if not swap.clean),
            "h2d_bytes": sum(sizes_bytes[swap.storage] for swap in swaps),
            "simulated_stall_us": simulate_plan(drawn).total_stall_us,
        }
    )
    return Plan.model_validate_json(
        drawn.model_copy(update={"certificate": certificate}).model_dump_json()
    )
