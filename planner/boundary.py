"""What a plan does with storages that live from one step to the next."""

from enum import StrEnum


class Boundary(StrEnum):
    """Where such storages are when a step ends and the next begins."""

    PERIODIC = "periodic"
    """Wherever it is best: a trip may wrap round the step boundary, and steps repeat."""
    RESIDENT = "resident"
    """On the device: every step is planned on its own."""
