"""What to move and when: gaps, memory, the ILP, the plan file, the schedule, the simulator.

The plan file needs no solver, so that the runtime reads plans without one. Solving is
`planner.solve.solve`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.plan import Plan, read_plan, write_plan

__all__ = ["Plan", "read_plan", "write_plan"]


def __getattr__(name: str) -> Any:
    # On first use: the data model takes longer to import than `plan --help` may take.
    if name not in __all__:
        raise AttributeError(f"module 'planner' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("planner.plan"), name)
