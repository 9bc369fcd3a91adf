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
    """Notes the first Ctrl-C; the second one interrupts.

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

    with _handled(signal.SIGINT, interrupted):
        yield lambda: count > 0


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Has SIGTERM end the command in order, so that what it has written in part is removed."""

    def ended(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    # Python runs signal handlers in the main thread only.
    if threading.current_thread() is threading.main_thread():
        with _handled(signal.SIGTERM, ended):
            yield
    else:
        yield


@contextmanager
def _handled(
    number: signal.Signals, handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
