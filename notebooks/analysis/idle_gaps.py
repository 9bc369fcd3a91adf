"""The gaps of a step, and which of them are long enough for a copy out and back."""

from collections.abc import Sequence
from itertools import accumulate

import pandas as pd

from planner.plan.plan import Boundary
from planner.problem.gaps import candidate_gaps
from planner.problem.smallest_size import most_min_size_bytes
from profiles.schema.profile import Link, Profile


def idle_gaps_table(profile: Profile, links: Sequence[Link]) -> pd.DataFrame:
    """Returns one row per gap that a plan may use, in program order.

    Columns: `storage` (its id), `name`, `kind`, `size_bytes`, `idle_us` (with nothing moved), and
    for each link `NAME_us`: what the copy out and the copy back take on it, one after the other,
    with the link to themselves.

    Args:
        profile: The step.
        links: The links to compare.
    """
    smallest_bytes = most_min_size_bytes(profile.peak_bytes)
    durations_us = [slot.duration_us for slot in profile.slots]
    starts_us = list(accumulate([*durations_us, *durations_us], initial=0.0))
    rows = [
        {
            "storage": gap.storage,
            "name": gap.name,
            "kind": profile.storages[gap.storage].kind.value,
            "size_bytes": gap.size_bytes,
            "idle_us": starts_us[gap.next_use_slot] - starts_us[gap.first_slot],
            **{round_trip_column(link): round_trip_us(link, gap.size_bytes) for link in links},
        }
        for gap in candidate_gaps(profile, smallest_bytes, Boundary.PERIODIC)
    ]
    columns = ["storage", "name", "kind", "size_bytes", "idle_us"]
    return pd.DataFrame(rows, columns=[*columns, *map(round_trip_column, links)])


def hidden_swaps_table(gaps: pd.DataFrame, links: Sequence[Link]) -> pd.DataFrame:
    """Returns what each link could hide, gap by gap: a necessary condition, not a plan.

    Swaps share the link, so not all that could be hidden alone can be hidden together.

    Columns: `link` (index), `gaps`, `long_enough` (gaps at least as long as their round trip),
    `size_bytes` (of all), `long_enough_bytes`.

    Args:
        gaps: From `idle_gaps_table`, with these links.
        links: The links.
    """
    rows = []
    for link in links:
        long_enough = gaps["idle_us"] >= gaps[round_trip_column(link)]
        rows.append(
            {
                "link": link.name,
                "gaps": len(gaps),
                "long_enough": int(long_enough.sum()),
                "size_bytes": int(gaps["size_bytes"].sum()),
                "long_enough_bytes": int(gaps["size_bytes"][long_enough].sum()),
            }
        )
    return pd.DataFrame(rows).set_index("link")


def round_trip_us(link: Link, size_bytes: float) -> float:
    """Returns the time of a copy out and a copy back, one after the other."""
    rates = link.d2h_bytes_per_us, link.h2d_bytes_per_us
    return sum(link.latency_us + size_bytes / rate for rate in rates)


def round_trip_column(link: Link) -> str:
    """Returns the name of a link's column in `idle_gaps_table`."""
    return f"{link.name}_us"
