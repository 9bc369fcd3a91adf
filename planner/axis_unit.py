"""What an axis is counted in: the largest unit that leaves numbers people can read."""

from typing import NamedTuple


class AxisUnit(NamedTuple):
    """A unit.

    Attributes:
        size: How many bytes or microseconds it is.
        name: As it stands on the axis.
    """

    size: float
    name: str


SIZE_UNITS = (
    AxisUnit(2**30, "GiB"),
    AxisUnit(2**20, "MiB"),
    AxisUnit(2**10, "KiB"),
    AxisUnit(1, "bytes"),
)
TIME_UNITS = (AxisUnit(1e6, "s"), AxisUnit(1e3, "ms"), AxisUnit(1.0, "us"))


def size_unit(largest_bytes: float) -> AxisUnit:
    """Returns the unit for an axis that goes up to so many bytes."""
    return _largest(SIZE_UNITS, largest_bytes)


def time_unit(largest_us: float) -> AxisUnit:
    """Returns the unit for an axis that goes up to so many microseconds."""
    return _largest(TIME_UNITS, largest_us)


def _largest(units: tuple[AxisUnit, ...], largest: float) -> AxisUnit:
    return next((unit for unit in units if largest >= unit.size), units[-1])
