"""Work in a process of its own, which is watched: a crash and a hang are answers, too."""

from collections.abc import Callable, Iterator
from multiprocessing import get_context
from typing import Any


class CrashError(Exception):
    """The process ended before its work did."""


class HangError(Exception):
    """The process said nothing for too long."""


def messages_of(
    work: Callable[..., None], *args: Any, limit_s: float, first_limit_s: float | None = None
) -> Iterator[Any]:
    """Yields what a process sends, until it sends None; then, or when left, ends it.

    Args:
        work: Called there with the arguments and the connection to send by.
        args: What it works on.
        limit_s: Longest wait for a message.
        first_limit_s: Longest wait for the first one, if another.

    Raises:
        CrashError: The process ended.
        HangError: It took too long.
    """
    context = get_context("spawn")
    mine, others = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(*args, others))
    process.start()
    others.close()
    wait_s = first_limit_s or limit_s
    try:
        while mine.poll(wait_s):
            message = mine.recv()
            if message is None:
                return
            yield message
            wait_s = limit_s
        raise HangError(f"hung for {wait_s:.0f} s")
    except EOFError:
        process.join()
        raise CrashError(f"the process ended with {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
