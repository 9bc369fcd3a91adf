"""Built-in workloads on the device, at shares of their peak: as users get replay by default."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from planner.plan.plan import Without
from tests.device.trainings import (
    LINK,
    built_in,
    plan_within,
    recorded,
    replayed,
    resident,
    source_of,
)
from tests.device.trial_device import trial_device

WORKLOADS = {
    "unet3d": source_of("unet3d", size="32", features="8"),
    "resnet50": source_of("resnet50", resolution="32", batch="2"),
    "vit": source_of("vit", size="tiny", resolution="32", batch="4"),
    "gpt2": source_of("gpt2", size="tiny", sequence="64"),
    "bert": source_of("bert", size="tiny", sequence="64"),
    "llama": source_of("llama", size="tiny", sequence="64"),
}


class Row(NamedTuple):
    """What came of one training under a plan, measured; its peak is that of all steps.

    Nothing is wrong if there are no faults.
    """

    name: str
    share: float
    budget_bytes: int
    swaps: int
    rebuilds: int
    peak_bytes: int
    faults: tuple[str, ...]


def replay_built_in(
    name: str, shares: Sequence[float], *, steps: int, time_limit_s: float
) -> Iterator[Row]:
    """Trains a workload under a plan for each share of its peak; 0 is the smallest budget.

    The device has no more memory than the budget.
    """
    source = WORKLOADS[name]
    make = built_in(source)
    profile = recorded(make, LINK, source)
    expected = resident(make, steps)
    for share in shares:
        # How much of a step is run again would depend on what is found in time.
        plan = plan_within(profile, share, time_limit_s, Without.RECOMPUTE)
        trial_device().keep_to(LINK)
        found = replayed(plan, make, steps)
        yield Row(
            name=name,
            share=share,
            budget_bytes=plan.budget_bytes,
            swaps=len(plan.swaps),
            rebuilds=len(plan.rebuilds),
            peak_bytes=max(found.peaks_bytes),
            faults=tuple(found.faults(expected, plan.budget_bytes)),
        )
