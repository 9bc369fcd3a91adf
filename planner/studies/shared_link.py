"""A link that data-parallel workers share: what is left of it for each of them.

[Note: workers on one link]
All workers of a host replay one plan, so they copy at about the same time, and each gets an equal
part of what it shares. The plan is one for all: the rates are those of the worker that shares most.
Workers take GPUs in order, so neighbours share first. With n workers, at most u of them behind one
connection to the host and m to one socket, and a direction's rate L for one worker alone:

    (1) port     L - X                  its own connection, up to the switch
    (2) uplink   (L - X) / u            from the switch to the host; L / u if no ring hop crosses it
    (3) memory   R / m                  a copy writes or reads its host bytes once, of R in all
    X = 2 (n-1)/n G / T                 only if the gradients are summed over this very link

Both directions together get the least of (1) and (2), with their joint rate in place of L and 2 X
in place of X, and of (3). One direction gets the least of its own (1) and (2) and of that. The
memory of a socket counts from two workers on: what one worker gets of it is in its measured rates.

X is a ring all-reduce: each worker sends 2 (n-1)/n times the G bytes of its gradients per step, and
receives as many (Patarasuk and Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of
workstations). Peers behind one switch reach each other through it, so of the ring one hop enters
and one leaves each uplink. The traffic is spread evenly over the T of a step with nothing moved. In
truth it comes in bursts during backward, when copies back are wanted most: an average is what a
plan that knows no collectives can use.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.plan.plan import Plan
from planner.plan.simulate import simulate_plan
from profiles.schema.errors import QuantityError
from profiles.schema.link import Sharing
from profiles.schema.profile import LeftOut, Link, Profile, Provenance, StorageKind

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """The gradients of one worker, if they are summed over the very link that the plan's copies
    take, and the time of the step over which that traffic is spread."""

    gradient_bytes: int
    step_us: float

    def rate_bytes_per_us(self, workers: int) -> float:
        """Returns what it takes of one worker's connection in each direction: X of the note."""
        if workers == 1 or self.gradient_bytes == 0:
            return 0.0
        return 2 * (workers - 1) / workers * self.gradient_bytes / self.step_us


def shared_link(
    link: Link, *, workers: int, sharing: Sharing, exchange: Exchange | None = None
) -> Link:
    """Returns the link that one of several workers sees (see [Note: workers on one link]).

    Args:
        link: As one worker alone sees it.
        workers: How many workers of one host copy at once.
        sharing: What they share.
        exchange: None if gradients take another way, such as NVLink between GPUs.

    Raises:
        QuantityError: Summing gradients leaves nothing of the link.
    """
    if workers == 1:
        return link
    taken = exchange.rate_bytes_per_us(workers) if exchange else 0.0
    both = min(_joint_rates(link, taken, workers, sharing), default=math.inf)
    d2h, h2d = (
        min(both, *_rates(alone, taken, workers, sharing))
        for alone in (link.d2h_bytes_per_us, link.h2d_bytes_per_us)
    )
    if min(d2h, h2d) <= 0:
        raise QuantityError(
            f"nothing is left of {link.name} for {workers} workers: summing their gradients over "
            "it takes as long as the step. Plan for a faster link, or for fewer workers."
        )
    measured = link.provenance is Provenance.MEASURED
    return Link(
        name=f"{link.name} / {workers} workers" + (", all-reduce" if taken else ""),
        d2h_bytes_per_us=d2h,
        h2d_bytes_per_us=h2d,
        both_bytes_per_us=both if both < d2h + h2d else None,
        latency_us=link.latency_us,
        engines=tuple(
            rate.model_copy(
                update={
                    "d2h_bytes_per_us": rate.d2h_bytes_per_us * d2h / link.d2h_bytes_per_us,
                    "h2d_bytes_per_us": rate.h2d_bytes_per_us * h2d / link.h2d_bytes_per_us,
                }
            )
            for rate in link.engines
        ),
        # What was measured was not measured with so many copying at once.
        provenance=Provenance.ESTIMATED if measured else link.provenance,
    )


def host_budget_each_bytes(host_budget_bytes: int | None, workers: int) -> int | None:
    """Returns one worker's share of a host's memory."""
    return None if host_budget_bytes is None else host_budget_bytes // workers


def exchanged_bytes(profile: Profile) -> int:
    """Returns the bytes that a worker's all-reduce sums in one step.

    Of a step recorded with DistributedDataParallel these are its buckets; of a plain step, its
    gradients.
    """
    buckets = [s.size_bytes for s in profile.storages if s.left_out is LeftOut.EXCHANGED]
    gradients = [s.size_bytes for s in profile.storages if s.kind is StorageKind.GRADIENT]
    return sum(buckets or gradients)


def _rates(alone: float, taken: float, workers: int, sharing: Sharing) -> tuple[float, float]:
    """(1) and (2) of the note."""
    behind = min(workers, sharing.gpus_per_uplink)
    crossing = taken if workers > sharing.gpus_per_uplink else 0.0
    return (alone - taken, (alone - crossing) / behind)


def _joint_rates(link: Link, taken: float, workers: int, sharing: Sharing) -> Iterator[float]:
    """What both directions together are limited by."""
    if link.both_bytes_per_us is not None:
        yield from _rates(link.both_bytes_per_us, 2 * taken, workers, sharing)
    on_one_socket = min(workers, sharing.gpus_per_memory)
    if sharing.memory is not None and on_one_socket > 1:
        yield sharing.memory.bytes_per_us / on_one_socket


COUNTS = (1, 2, 4, 8)
"""Workers on the hosts that there are."""
COLUMNS = (
    "workers",
    "d2h_bytes_per_us",
    "h2d_bytes_per_us",
    "both_bytes_per_us",
    "stall_us",
    "step_us",
    "host_pool_bytes",
)


def worker_costs_table(
    plan: Plan,
    link: Link,
    sharing: Sharing,
    exchange: Exchange | None = None,
    counts: Iterable[int] = COUNTS,
) -> "pd.DataFrame":
    """Returns one row per number of workers, the plan being the same for all.

    Columns: `workers`, the rates one worker is left with (`d2h_bytes_per_us`, `h2d_bytes_per_us`,
    and `both_bytes_per_us`, NaN if neither direction slows the other), the simulated `stall_us`
    and `step_us`, and `host_pool_bytes`, of all workers together. Where summing gradients leaves
    nothing of the link, rates and times are NaN. The link is as one worker alone sees it: not the
    plan's, if that is shared.
    """
    import pandas as pd

    rows = [_row(plan, link, sharing, exchange, count) for count in counts]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(
    plan: Plan, link: Link, sharing: Sharing, exchange: Exchange | None, workers: int
) -> dict[str, float]:
    row: dict[str, float] = {"workers": workers, "host_pool_bytes": workers * plan.host_pool_bytes}
    try:
        left = shared_link(link, workers=workers, sharing=sharing, exchange=exchange)
    except QuantityError:
        return row
    timeline = simulate_plan(plan.model_copy(update={"link": left}))
    return row | {
        "d2h_bytes_per_us": left.d2h_bytes_per_us,
        "h2d_bytes_per_us": left.h2d_bytes_per_us,
        "both_bytes_per_us": left.both_bytes_per_us or math.nan,
        "stall_us": timeline.total_stall_us,
        "step_us": timeline.step_us,
    }
