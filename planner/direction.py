"""The two ways over a link."""

from enum import Enum


class Direction(Enum):
    """One way over the link."""

    D2H = "D2H"
    H2D = "H2D"
