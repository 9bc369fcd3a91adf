"""The links between device and host memory that a plan can be made for.

`links.toml` has what is known of each, and where that was read.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from profiles.schema.errors import QuantityError, did_you_mean
from profiles.schema.link import NOTHING_SHARED, Figure, Sharing
from profiles.schema.profile import Link, Provenance


@dataclass(frozen=True, kw_only=True)
class LinkFacts:
    """A link of the table: what a plan is made with, and what that rests on.

    Attributes:
        link: The record that goes into profiles and plans; its rates are those below.
        theory: Rate of one direction by the standard or the data sheet.
        d2h: Rate from device to host, measured by others.
        h2d: Rate from host to device, measured by others.
        both: Rate of both directions together while both run.
        sharing: What workers share on the machine that the figures come from.
    """

    link: Link
    theory: Figure
    d2h: Figure
    h2d: Figure
    both: Figure
    sharing: Sharing

    @property
    def figures(self) -> tuple[tuple[str, Figure], ...]:
        """Every rate that is known, with its name."""
        named = (
            ("in theory, each way", self.theory),
            ("to the host", self.d2h),
            ("from the host", self.h2d),
            ("both ways together", self.both),
            ("memory of a socket", self.sharing.memory),
        )
        return tuple((name, figure) for name, figure in named if figure is not None)


CUSTOM = "custom"
"""The name of a link whose rates the user gave."""
MEASURED = "measured"
"""The name of a link whose rates were measured on the machine at hand."""

COPY_LATENCY_US = 10.0
"""Issuing one asynchronous copy and its two events: a few microseconds each on the host."""


def nominal_link(
    name: str,
    d2h_bytes_per_us: float,
    h2d_bytes_per_us: float,
    both_bytes_per_us: float | None = None,
    *,
    latency_us: float,
) -> Link:
    """Returns a link whose rates were not measured on the machine at hand."""
    return Link(
        name=name,
        d2h_bytes_per_us=d2h_bytes_per_us,
        h2d_bytes_per_us=h2d_bytes_per_us,
        both_bytes_per_us=both_bytes_per_us,
        latency_us=latency_us,
        engines=(),
        provenance=Provenance.NOMINAL,
    )


# The emulated accelerator computes about as slowly as one CPU core. Its link is slow in the same
# proportion, so that compute and copies compete as they do on a real device. The latency is that
# of waking a thread.
EMULATED = nominal_link("cpu-emulated", 1_000.0, 1_000.0, latency_us=50.0)

_NOT_VERIFIED = ("not published; assumed", "a reader's quote of ")
"""How the source of a figure begins that does not show what is behind it."""


def _figure(gb_per_s: float, source: str) -> Figure:
    verified = not source.startswith(_NOT_VERIFIED)
    return Figure(bytes_per_us=gb_per_s * 1000, source=source, verified=verified)


def _facts(name: str, row: Mapping[str, Any]) -> LinkFacts:
    figures = {key: _figure(*value) for key, value in row.items() if isinstance(value, list)}
    sharing = Sharing(
        gpus_per_uplink=row["gpus_per_uplink"],
        gpus_per_memory=row["gpus_per_memory"],
        memory=figures.pop("memory", None),
        source=row["counted"],
    )
    rates = (figures[way].bytes_per_us for way in ("d2h", "h2d", "both"))
    link = nominal_link(name, *rates, latency_us=COPY_LATENCY_US)
    return LinkFacts(link=link, sharing=sharing, **figures)


_TABLE = tomllib.loads(Path(__file__).with_name("links.toml").read_text())

LINK_FACTS: Mapping[str, LinkFacts] = MappingProxyType(
    {name: _facts(name, row) for name, row in _TABLE.items()}
)
"""What is known of every real link, by name."""

LINKS: Mapping[str, Link] = MappingProxyType(
    {link.name: link for link in (EMULATED, *(facts.link for facts in LINK_FACTS.values()))}
)


def link_named(name: str) -> Link:
    """Returns a link of the table.

    Raises:
        QuantityError: There is none of that name; the message names the nearest, or all.
    """
    if name in LINKS:
        return LINKS[name]
    hint = did_you_mean(name, LINKS, f"Links: {', '.join(LINKS)}.")
    raise QuantityError(f"there is no link {name!r}. {hint}")


def known_sharing(link: Link) -> Sharing | None:
    """Returns what workers share on a link of the table; None if that is unknown."""
    if link.name == EMULATED.name:
        # Each emulated accelerator has lanes of its own, which keep to their rate.
        return NOTHING_SHARED
    facts = LINK_FACTS.get(link.name)
    return facts.sharing if facts else None
