"""One gap used, with the anchors at which its swap happens."""

from typing import NamedTuple


class TimedSwap(NamedTuple):
    """One gap used: the anchors of its swap, with swap_out <= release < swap_in <= await.

    Slots count as the gap's do, on past the end of the step. Our own scheduler awaits at the gap's
    end; some published heuristics wait earlier.

    Attributes:
        gap: Index of the gap in the problem.
        storage: Id of the gap's storage.
        swap_out_slot: Where the copy to the host is issued.
        release_slot: Where compute waits for it and the device bytes are given back.
        swap_in_slot: Where they are taken again and the copy back is issued.
        await_slot: Where compute waits for the copy back.
        clean: Nothing is copied to the host: an earlier swap's copy is still true.
    """

    gap: int
    storage: int
    swap_out_slot: int
    release_slot: int
    swap_in_slot: int
    await_slot: int
    clean: bool = False
