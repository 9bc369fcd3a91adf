"""The solvers a plan can be made with. Needs no PuLP, so that the command line starts fast."""

from enum import StrEnum


class SolverName(StrEnum):
    """A solver PuLP can drive."""

    HIGHS = "highs"
    CBC = "cbc"
