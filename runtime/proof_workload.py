"""The workload of a plan, built where the plan is replayed."""

from planner.plan import Plan
from profiles.device import build_on, device_at_hand
from profiles.workload import Workload
from profiles.workloads.build import LARGEST_SEED, build


def build_for(plan: Plan, rank: int = 0) -> Workload:
    """Builds a plan's workload on the plan's device.

    Args:
        plan: The plan.
        rank: The number of the worker that builds it; added to the seed.

    Raises:
        WorkloadError: It cannot be built.
        CapacityError: The device has no room for it.
    """
    source = plan.workload
    seed = (source.seed + rank) % (LARGEST_SEED + 1)
    moved = source.model_copy(update={"seed": seed})
    return build_on(device_at_hand(plan.device.kind), lambda: build(moved))
