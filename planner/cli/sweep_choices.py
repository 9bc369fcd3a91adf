"""What a sweep is asked for: its lists of budgets, links and numbers of workers."""

from planner.cli.link import choose_link
from planner.cli.sharing import Workers, choose_workers
from planner.studies.shared_link import host_budget_each_bytes
from planner.studies.sweep import LinkChoice
from profiles.schema.errors import QuantityError
from profiles.schema.profile import Profile
from profiles.schema.units import parse_budget_bytes, parse_size_bytes


def parse_budgets_bytes(profile: Profile, budgets: str) -> tuple[int, ...]:
    """Reads `30%,50%,8GiB`; what stands there twice counts once.

    Raises:
        QuantityError: One of them is no budget.
    """
    peak_bytes = profile.peak_bytes
    each = [parse_budget_bytes("--budgets", text, peak_bytes) for text in budgets.split(",")]
    return tuple(dict.fromkeys(each))


def parse_link_choices(
    profile: Profile,
    *,
    links: str | None,
    workers: str,
    share: str | None,
    all_reduce_on_link: bool,
    host_budget: str | None,
) -> tuple[LinkChoice, ...]:
    """Reads the links and the numbers of workers: link by link, in the order given.

    Args:
        profile: The step.
        links: `--links`; the profile's link if None.
        workers: `--workers`, such as `1,2,4`.
        share: `--share`.
        all_reduce_on_link: `--all-reduce-on-link`.
        host_budget: `--host-budget`, of all workers of a host together.

    Raises:
        QuantityError: There is no such link, a number is none, or it is not known what workers
            share.
    """
    names = [None] if links is None else list(dict.fromkeys(map(str.strip, links.split(","))))
    host_bytes = parse_size_bytes("--host-budget", host_budget) if host_budget else None
    return tuple(
        _choice(
            choose_workers(
                profile,
                choose_link(profile.link, name, None, None),
                count=count,
                share=share,
                all_reduce_on_link=all_reduce_on_link,
            ),
            host_bytes,
        )
        for name in names
        for count in _counts(workers)
    )


def _choice(workers: Workers, host_bytes: int | None) -> LinkChoice:
    return LinkChoice(
        name=workers.alone.name,
        workers=workers.count,
        link=workers.link,
        all_reduce_on_link=workers.exchange is not None,
        host_budget_bytes=host_budget_each_bytes(host_bytes, workers.count),
    )


def _counts(workers: str) -> tuple[int, ...]:
    texts = [text.strip() for text in workers.split(",")]
    if not all(text.isdecimal() and int(text) > 0 for text in texts):
        raise QuantityError(f"--workers is {workers!r}, expected numbers from 1 up such as 1,2,4.")
    return tuple(dict.fromkeys(map(int, texts)))
