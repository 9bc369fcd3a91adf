"""Text that a terminal shows as it is: no character moves the cursor, rings, or hides others."""

import re
from collections.abc import Iterator
from typing import Any

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
