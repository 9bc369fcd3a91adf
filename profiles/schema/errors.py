"""The one family of errors a user can meet: one line, what to do next, exit code 2."""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any


class SwapplanError(Exception):
    """A mistake in the input or a wall the user can act on.

    The message is one line: what was found, what was expected, and what to do next. The command
    line prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class FileError(SwapplanError):
    """A file is missing, damaged, foreign, of another version, or cannot be written."""


class WorkloadError(SwapplanError):
    """A workload is unknown, cannot be built, or does not return what it must."""


class QuantityError(SwapplanError):
    """A size, a rate or a setting on the command line cannot be read."""


class BudgetError(SwapplanError):
    """No plan meets the budget; the message names the smallest one that can be met.

    Attributes:
        smallest_budget_bytes: The smallest budget for which a plan exists.
    """

    def __init__(self, message: str, smallest_budget_bytes: int) -> None:
        super().__init__(message)
        self.smallest_budget_bytes = smallest_budget_bytes


class CapacityError(SwapplanError):
    """The device at hand has no room for a step that is to be recorded, or for one op of it."""


class SolverError(SwapplanError):
    """The solver is missing, failed, or returned values that are no solution."""


class PlanMismatchError(SwapplanError):
    """A plan was made for another model, optimizer or device than the one at hand."""


class WorkerError(SwapplanError):
    """A data-parallel worker failed, was killed, or no longer answers the others."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """Returns what to say of an unknown name: the nearest names, or something else without any."""
    near = difflib.get_close_matches(name.lower(), known, n=3)
    return f"Did you mean {' or '.join(near)}?" if near else otherwise


_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, breaks of lines, marks that turn the direction of writing, and halves of
characters."""


def is_plain(text: str) -> bool:
    """Whether a text holds no control character."""
    return _CONTROLS.search(text) is None


def plain(text: str) -> str:
    """Returns a text with control characters written out, as in `\\x1b`."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def texts_that_are_not_plain(content: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yields each text within parsed JSON that holds control characters, after its place."""
    if isinstance(content, str) and not is_plain(content):
        yield place, content
    elif isinstance(content, dict):
        for key, value in content.items():
            if not is_plain(key):
                yield place, key
            yield from texts_that_are_not_plain(value, f"{place}.{key}".lstrip("."))
    elif isinstance(content, list):
        for n, value in enumerate(content):
            yield from texts_that_are_not_plain(value, f"{place}[{n}]")
