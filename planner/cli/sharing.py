"""What workers share of a link: the `--share` option, and the link that is left for each."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiles.schema.errors import QuantityError
from profiles.schema.units import parse_rate_bytes_per_us

if TYPE_CHECKING:
    from planner.studies.shared_link import Exchange
    from profiles.schema.link import Sharing
    from profiles.schema.profile import Link, Profile

SHARE = "--share"
SWITCH, SOCKET, MEMORY = "switch", "socket", "memory"
NOTHING = "nothing"
EXPECTED = (
    "expected 'nothing', a link of which it is known (see 'plan links'), or what GPUs share, such "
    "as switch=2,socket=4,memory=200GB/s: GPUs behind one switch, GPUs to one socket, and the rate "
    "of that socket's memory (any of the three)"
)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The workers of one host that a plan is for.

    Attributes:
        count: How many.
        alone: The link as one worker alone sees it.
        sharing: What they share; None if that is not known, which one worker need not.
        exchange: Gradients summed over the link, if they are.
    """

    count: int
    alone: "Link"
    sharing: "Sharing | None"
    exchange: "Exchange | None"

    @property
    def link(self) -> "Link":
        """The link that is left for each.

        Raises:
            QuantityError: Nothing is.
        """
        from planner.studies.shared_link import shared_link

        if self.sharing is None:
            return self.alone
        return shared_link(
            self.alone, workers=self.count, sharing=self.sharing, exchange=self.exchange
        )


def choose_workers(
    profile: "Profile", alone: "Link", *, count: int, share: str | None, all_reduce_on_link: bool
) -> Workers:
    """Returns the workers that the options name.

    Args:
        profile: What they train; its gradients are what they exchange.
        alone: The link as one worker alone sees it.
        count: `--workers`.
        share: `--share`; if None, what the profile says of its link, or the table of another.
        all_reduce_on_link: `--all-reduce-on-link`.

    Raises:
        QuantityError: `--share` is unreadable, or there is none and nothing is known.
    """
    from planner.studies.shared_link import Exchange, exchanged_bytes
    from profiles.hardware.links import known_sharing

    known = profile.sharing if alone == profile.link else known_sharing(alone)
    sharing = known if share is None else parse_sharing(share)
    if sharing is None and count > 1:
        raise QuantityError(
            f"what {count} workers share on link {alone.name} is not known. Say it, such as "
            f"{SHARE} switch=2,socket=4, or {SHARE} {NOTHING}; 'plan links' has what is known."
        )
    exchange = Exchange(gradient_bytes=exchanged_bytes(profile), step_us=profile.step_us)
    return Workers(
        count=count,
        alone=alone,
        sharing=sharing,
        exchange=exchange if all_reduce_on_link else None,
    )


def parse_sharing(text: str) -> "Sharing":
    """Reads `switch=2,socket=4,memory=200GB/s`, any of the three, a link's name, or `nothing`.

    Raises:
        QuantityError: It is something else.
    """
    from profiles.hardware.links import LINK_FACTS
    from profiles.schema.link import NOTHING_SHARED, Figure, Sharing

    if text.strip() == NOTHING:
        return NOTHING_SHARED
    facts = LINK_FACTS.get(text.strip())
    if facts is not None and facts.sharing is not None:
        return facts.sharing
    parts = _parts(text)
    memory = parts.get(MEMORY)
    return Sharing(
        gpus_per_uplink=_count(text, parts.get(SWITCH, "1")),
        gpus_per_memory=_count(text, parts.get(SOCKET, parts.get(SWITCH, "1"))),
        memory=(
            Figure(bytes_per_us=parse_rate_bytes_per_us(SHARE, memory), source=SHARE, verified=True)
            if memory
            else None
        ),
        source=SHARE,
    )


def _parts(text: str) -> dict[str, str]:
    pairs = [part.strip().partition("=") for part in text.split(",")]
    parts = {key.strip(): value.strip() for key, _, value in pairs}
    if len(parts) < len(pairs) or not parts.keys() <= {SWITCH, SOCKET, MEMORY}:
        raise _unreadable(text)
    if MEMORY in parts and parts.keys().isdisjoint({SWITCH, SOCKET}):
        raise QuantityError(
            f"{SHARE} is {text!r}, which says how fast a socket's memory is but not how many GPUs "
            "copy to it. Add such as socket=4."
        )
    return parts


def _count(text: str, number: str) -> int:
    if not number.isdecimal() or int(number) < 1:
        raise _unreadable(text)
    return int(number)


def _unreadable(text: str) -> QuantityError:
    return QuantityError(f"{SHARE} is {text!r}, {EXPECTED}.")
