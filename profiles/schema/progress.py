"""How long work reports to its caller how far it is."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as `progress(what, done, total)`, such as `progress("timing steps", 1, 3)`."""


def silent(what: str, done: int, total: int) -> None:
    """Reports nothing."""
