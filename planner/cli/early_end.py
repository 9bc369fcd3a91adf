"""Commands that are asked to end: the best plan so far is worth having, files half written not."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SECOND_INTERRUPT = "plan: ending with the best plan so far; Ctrl-C again to end without one"
TERMINATED = 143
"""128 plus the number of the signal, as shells report it."""


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


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Has SIGTERM end the command in order, so that what it has written in part is removed."""
    if threading.current_thread() is not threading.main_thread():
        # Only there a process hears signals.
        yield
        return

    def ended(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
