"""What a command is asked to plan: budgets, links, workers and what these share."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.plan.plan import Without
from planner.problem.settings import WITHOUT_BY_DEFAULT
from profiles.hardware.links import (
    CUSTOM,
    LINK_FACTS,
    MEASURED,
    known_sharing,
    link_named,
    nominal_link,
)
from profiles.schema.errors import QuantityError
from profiles.schema.link import NOTHING_SHARED, Figure, Sharing
from profiles.schema.profile import CPU, Link, Profile
from profiles.schema.units import (
    parse_budget_bytes,
    parse_rate_bytes_per_us,
    parse_size_bytes,
    parse_size_or_nothing_bytes,
    size_text,
)

if TYPE_CHECKING:
    from planner.studies.shared_link import Exchange
    from planner.studies.sweep import LinkChoice

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
    alone: Link
    sharing: Sharing | None
    exchange: "Exchange | None"

    @property
    def link(self) -> Link:
        """The link that is left for each; a `QuantityError` if nothing is."""
        from planner.studies.shared_link import shared_link

        if self.sharing is None:
            return self.alone
        return shared_link(
            self.alone, workers=self.count, sharing=self.sharing, exchange=self.exchange
        )


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """The options of a command that plans, as they were given; `budget` and `workers` of some have
    several, with commas.

    A text is read when its figure is asked for, since some figures depend on the profile, and `plan
    limits` makes profiles as it goes. Every method and property raises a `QuantityError` if a text
    is unreadable.
    """

    budget: str = ""
    links: tuple[str | None, ...] = (None,)
    d2h_bandwidth: str | None = None
    h2d_bandwidth: str | None = None
    workers: str = "1"
    share: str | None = None
    all_reduce_on_link: bool = False
    host_budget: str | None = None
    min_size: str | None = None
    asked_without: Without | None = None

    def budget_bytes(self, profile: Profile) -> int:
        """Returns the one budget that was asked for."""
        return parse_budget_bytes("--budget", self.budget, profile.peak_bytes)

    def budgets_bytes(self, profile: Profile) -> tuple[int, ...]:
        """Reads `30%,50%,8GiB`; a budget that stands there twice counts once."""
        texts = self.budget.split(",")
        each = [parse_budget_bytes("--budgets", text, profile.peak_bytes) for text in texts]
        return tuple(dict.fromkeys(each))

    @property
    def min_size_bytes(self) -> int | None:
        """The smallest storage to move; None for the default."""
        return parse_size_bytes("--min-size", self.min_size) if self.min_size else None

    @property
    def host_budget_bytes(self) -> int | None:
        """Bytes of the host for all its workers; None for no limit."""
        given, swaps = self.host_budget, self.asked_without is not Without.SWAP
        host_bytes = None if given is None else parse_size_or_nothing_bytes("--host-budget", given)
        if not swaps and host_bytes:
            raise QuantityError(
                f"--without swap leaves nothing to the host, and --host-budget is {given!r}. Give "
                "one of them."
            )
        return host_bytes if swaps else 0

    @property
    def without(self) -> Without:
        """What the plans are not to use."""
        if self.asked_without is not None:
            return self.asked_without
        return Without.SWAP if self.host_budget_bytes == 0 else WITHOUT_BY_DEFAULT

    def links_of(self, profile: Profile) -> Iterator[Link]:
        """Yields the links to plan for, as one worker alone sees them, in the order given."""
        for name in self.links:
            yield choose_link(profile.link, name, self.d2h_bandwidth, self.h2d_bandwidth)

    def workers_of(self, profile: Profile) -> Iterator[Workers]:
        """Yields the workers to plan for: link by link, in the order given."""
        counts = _counts(self.workers)
        for alone in self.links_of(profile):
            yield from (self.workers_on(profile, alone, count) for count in counts)

    def workers_on(self, profile: Profile, alone: Link, count: int) -> Workers:
        """Returns so many workers, on a link that one of them has alone.

        Without `--share` they share what the profile says of its link, or the table of another.
        """
        from planner.studies.shared_link import Exchange, exchanged_bytes

        known = profile.sharing if alone == profile.link else known_sharing(alone)
        sharing = known if self.share is None else parse_sharing(self.share)
        if sharing is None and count > 1:
            raise QuantityError(
                f"what {count} workers share on link {alone.name} is not known. Say it, such as "
                f"{SHARE} switch=2,socket=4, or {SHARE} {NOTHING}; 'plan links' has what is known."
            )
        exchange = None
        if self.all_reduce_on_link:
            exchange = Exchange(gradient_bytes=exchanged_bytes(profile), step_us=profile.step_us)
        return Workers(count=count, alone=alone, sharing=sharing, exchange=exchange)

    def choices(self, profile: Profile) -> "tuple[LinkChoice, ...]":
        """Returns the links to plan for, each as that many workers have it."""
        from planner.studies.shared_link import host_budget_each_bytes
        from planner.studies.sweep import LinkChoice

        host_bytes = self.host_budget_bytes
        return tuple(
            LinkChoice(
                name=workers.alone.name,
                workers=workers.count,
                link=workers.link,
                all_reduce_on_link=workers.exchange is not None,
                host_budget_bytes=host_budget_each_bytes(host_bytes, workers.count),
            )
            for workers in self.workers_of(profile)
        )


def link_names(links: str | None) -> tuple[str | None, ...]:
    """Reads the names in `--links`; one that stands there twice counts once."""
    return (None,) if links is None else tuple(dict.fromkeys(map(str.strip, links.split(","))))


def is_to_be_measured(device: str, name: str | None, d2h: str | None, h2d: str | None) -> bool:
    """Whether the options ask for the rates of the link at hand; the emulated device has none."""
    is_named = d2h is not None or h2d is not None
    return not is_named and (name == MEASURED or (name is None and device != CPU))


def choose_link(default: Link, name: str | None, d2h: str | None, h2d: str | None) -> Link:
    """Returns the link of that name, or of these rates; one alone counts for both directions.

    Without either it is the default link. A custom link takes its time per copy from it.

    Raises:
        QuantityError: No such link, an unreadable rate, or both a name and a rate.
    """
    if d2h is None and h2d is None:
        return default if name is None else link_named(name)
    if name is not None:
        raise QuantityError(
            f"--link {name} sets the rates already. Give --link, or --d2h-bandwidth and "
            "--h2d-bandwidth."
        )
    rates = [
        parse_rate_bytes_per_us(option, text)
        for option, text in (("--d2h-bandwidth", d2h), ("--h2d-bandwidth", h2d))
        if text is not None
    ]
    return nominal_link(CUSTOM, rates[0], rates[-1], latency_us=default.latency_us)


def parse_sharing(text: str) -> Sharing:
    """Reads `switch=2,socket=4,memory=200GB/s`, any of the three, a link's name, or `nothing`.

    Raises:
        QuantityError: It is something else.
    """
    if text.strip() == NOTHING:
        return NOTHING_SHARED
    if text.strip() in LINK_FACTS:
        return LINK_FACTS[text.strip()].sharing
    parts = _parts(text)
    switch = parts.get(SWITCH, "1")
    socket = parts.get(SOCKET, switch)
    if not all(number.isdecimal() and int(number) > 0 for number in (switch, socket)):
        raise _unreadable(text)
    memory = None
    if parts.get(MEMORY):
        rate = parse_rate_bytes_per_us(SHARE, parts[MEMORY])
        memory = Figure(bytes_per_us=rate, source=SHARE, verified=True)
    return Sharing(
        gpus_per_uplink=int(switch), gpus_per_memory=int(socket), memory=memory, source=SHARE
    )


def print_other_way(profile: Profile) -> None:
    """Prints that the workers' gradients are taken not to use the link."""
    from planner.studies.shared_link import exchanged_bytes

    print(
        f"Summing {size_text(exchanged_bytes(profile))} of gradients is taken to go another way "
        "between the workers than this link; --all-reduce-on-link if not."
    )


def _counts(workers: str) -> tuple[int, ...]:
    texts = [text.strip() for text in workers.split(",")]
    if not all(text.isdecimal() and int(text) > 0 for text in texts):
        raise QuantityError(f"--workers is {workers!r}, expected numbers from 1 up such as 1,2,4.")
    return tuple(dict.fromkeys(map(int, texts)))


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


def _unreadable(text: str) -> QuantityError:
    return QuantityError(f"{SHARE} is {text!r}, {EXPECTED}.")
