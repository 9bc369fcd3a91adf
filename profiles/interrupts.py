"""What an interrupt from the keyboard may not leave half done."""

from collections.abc import Callable

PATIENCE = 3
"""How many interrupts are held back: a user who goes on means it."""


def insist(act: Callable[[], None]) -> None:
    """Does what may begin anew from wherever it was left; an interrupt is passed on at the end.

    Args:
        act: What is done, and done again after an interrupt.

    Raises:
        KeyboardInterrupt: One came; it is done all the same, unless they came too often.
    """
    interrupt: KeyboardInterrupt | None = None
    for _ in range(PATIENCE):
        try:
            act()
            break
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        try:
            raise interrupt
        finally:
            # Its traceback holds this frame: a cycle would keep the step's tensors for long.
            del interrupt


def keep_in_view(error: BaseException, fault: BaseException) -> None:
    """Has a user see the first of two errors, with a note of the second; but an interrupt before.

    Args:
        error: What was raised first.
        fault: What was raised while cleaning up behind it.

    Raises:
        BaseException: The second is an interrupt, and the first is not.
    """
    if isinstance(error, Exception) and not isinstance(fault, Exception):
        try:
            raise fault
        finally:
            del error, fault
    for note in getattr(fault, "__notes__", (f"swapplan: {type(fault).__name__}: {fault}",)):
        error.add_note(note)
