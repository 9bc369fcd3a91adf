"""A lane whose copies fail."""

from planner.plan.lanes import Direction
from runtime.lanes import emulated as lanes
from runtime.lanes.lane import Piece


class FailingCopy:
    """Stands in for the copying: raises as often as was asked, in one direction."""

    def __init__(self, direction: Direction, times: int) -> None:
        self._direction, self._times = direction, times
        self._copy_bytes = lanes._copy_bytes

    def __call__(self, piece: Piece, direction: Direction) -> None:
        if direction is self._direction and self._times > 0:
            self._times -= 1
            raise RuntimeError("no such memory")
        self._copy_bytes(piece, direction)
