"""What a plan costs with more workers, as `plan solve` prints it."""

import math
from collections.abc import Callable

from planner.cli.output import print_line, print_table
from planner.cli.sharing import SHARE, Workers
from planner.plan.plan import Plan
from planner.studies.shared_link import exchanged_bytes, worker_costs_table
from profiles.schema.link import NOTHING_SHARED
from profiles.schema.profile import LeftOut, Profile
from profiles.schema.units import rate_text, size_text, time_text

NUMBERS = ("workers", "to the host", "from it", "both together", "stall", "step", "host pools")

ANOTHER_WAY = (
    "Summing {} of gradients is taken to go another way between the workers than this link; "
    "--all-reduce-on-link if not."
)


def print_worker_costs(plan: Plan, workers: Workers) -> None:
    """Prints what the plan costs with other numbers of workers, or why that is not said."""
    name = workers.alone.name
    if not plan.swaps:
        return
    if workers.sharing is None:
        print_line(f"What more workers would share on link {name} is not known: {SHARE} says it.")
    elif workers.sharing == NOTHING_SHARED and workers.exchange is None:
        print_line(
            f"Workers share nothing on link {name}: the step takes as long for each of many."
        )
    else:
        _print_table(plan, workers)


def print_worker_notes(profile: Profile, workers: Workers) -> None:
    """Prints what was taken for granted of several workers."""
    if workers.count == 1:
        return
    assert workers.sharing is not None
    if workers.sharing.memory is None and workers.sharing.gpus_per_memory > 1:
        print("How fast a socket's memory is was not said: it is taken not to be what limits.")
    if workers.exchange is None:
        print(ANOTHER_WAY.format(size_text(exchanged_bytes(profile))))
    if not any(storage.left_out is LeftOut.EXCHANGED for storage in profile.storages):
        print(
            "The step was recorded without DistributedDataParallel, whose buckets take memory: to "
            "train with workers, record it with 'plan profile --data-parallel'."
        )


def _print_table(plan: Plan, workers: Workers) -> None:
    assert workers.sharing is not None
    table = worker_costs_table(plan, workers.alone, workers.sharing, workers.exchange)
    print_table(
        f"This plan with other numbers of workers on one host, link {workers.alone.name} (rates: "
        f"{workers.alone.provenance.value}, divided; stall and step: simulated)",
        NUMBERS,
        [
            (
                str(row.workers),
                _or_nothing(row.d2h_bytes_per_us, rate_text),
                _or_nothing(row.h2d_bytes_per_us, rate_text),
                "" if math.isnan(row.both_bytes_per_us) else rate_text(row.both_bytes_per_us),
                _or_nothing(row.stall_us, time_text),
                _or_nothing(row.step_us, time_text),
                size_text(row.host_pool_bytes),
            )
            for row in table.itertuples()
        ],
        right=NUMBERS,
    )


def _or_nothing(figure: float, text: Callable[[float], str]) -> str:
    return "nothing left" if math.isnan(figure) else text(figure)
