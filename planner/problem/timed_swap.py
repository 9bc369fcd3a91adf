"""One gap used, with the anchors at which its swap happens."""

from typing import NamedTuple


class TimedSwap(NamedTuple):
    """One gap used: the anchors of its swap. The await is always the gap's end.

    Slots count as the gap's do, on past the end of the step.

    Attributes:
        gap: Index of the gap in the problem.
        swap_out_slot: Where the copy to the host is issued.
        release_slot: Where the device bytes are given back.
        swap_in_slot: Where they are taken again and the copy back is issued.
        clean: Nothing is copied to the host: an earlier trip's copy is still true.
    """

    gap: int
    swap_out_slot: int
    release_slot: int
    swap_in_slot: int
    clean: bool = False
