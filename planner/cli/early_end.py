"""Ctrl-C while planning: the best plan so far is worth having."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SECOND_INTERRUPT = "plan: ending with the best plan so far; Ctrl-C again to end without one"


@contextmanager
def early_end() -> Iterator[Callable[[], bool]]:
    """Takes the first Ctrl-C as a wish; the second one interrupts as ever.

    Yields:
        Whether there was a Ctrl-C.
    """
    count = 0

    def interrupted(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count > 1:
            raise KeyboardInterrupt
        print(SECOND_INTERRUPT, file=sys.stderr)

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield lambda: count > 0
    finally:
        signal.signal(signal.SIGINT, before)
