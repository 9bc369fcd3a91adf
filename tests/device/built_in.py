"""Built-in workloads on the device, at shares of their peak: as users get replay by default."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from planner.plan.plan import Plan, Without
from planner.solving import solve
from profiles.schema.errors import BudgetError
from profiles.schema.memory import slot_memory
from profiles.schema.profile import Profile
from tests.device.accelerator import accelerator
from tests.device.trainings import LINK, built_in, recorded, replayed, resident, source_of

WORKLOADS = {
    "unet3d": source_of("unet3d", size="32", features="8"),
    "resnet50": source_of("resnet50", resolution="32", batch="2"),
    "vit": source_of("vit", size="tiny", resolution="32", batch="4"),
    "gpt2": source_of("gpt2", size="tiny", sequence="64"),
    "bert": source_of("bert", size="tiny", sequence="64"),
    "llama": source_of("llama", size="tiny", sequence="64"),
}


class Row(NamedTuple):
    """What came of one training under a plan, measured; its peak is that of all steps."""

    name: str
    share: float
    budget_bytes: int
    swaps: int
    rebuilds: int
    is_bit_equal: bool
    fallbacks: int
    peak_bytes: int


def replay_built_in(
    name: str, shares: Sequence[float], *, steps: int, time_limit_s: float
) -> Iterator[Row]:
    """Trains a workload under a plan for each share of its peak; 0 is the smallest budget.

    The device has no more memory than the budget.
    """
    source = WORKLOADS[name]
    make = built_in(source)
    profile = recorded(make, source)
    expected = resident(make, steps)
    peak_bytes = max(slot.resident_bytes for slot in slot_memory(profile))
    for share in shares:
        plan = _plan(profile, int(peak_bytes * share), time_limit_s)
        accelerator().set_link(LINK.d2h_bytes_per_us, LINK.h2d_bytes_per_us, LINK.latency_us)
        found = replayed(plan, make, steps)
        yield Row(
            name=name,
            share=share,
            budget_bytes=plan.budget_bytes,
            swaps=len(plan.swaps),
            rebuilds=len(plan.rebuilds),
            is_bit_equal=found.same_as(expected),
            fallbacks=len(found.fallbacks),
            peak_bytes=max(found.peaks_bytes),
        )


def _plan(profile: Profile, budget_bytes: int, time_limit_s: float) -> Plan:
    """Plans swaps alone: how much of a step is run again would depend on the machine."""
    alone = Without.RECOMPUTE
    try:
        return solve(profile, budget_bytes=budget_bytes, time_limit_s=time_limit_s, without=alone)
    except BudgetError as error:
        smallest_bytes = error.smallest_budget_bytes
        return solve(profile, budget_bytes=smallest_bytes, time_limit_s=time_limit_s, without=alone)
