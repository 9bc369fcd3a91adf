"""What to move and when: a plan for a recorded step, and how far from the best it can be.

`solve` makes a plan from a profile. Reading one needs no solver, so that the runtime can.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.plan.plan import Plan
    from planner.plan.plan_file import read_plan, write_plan
    from planner.report.tables import memory_table, swaps_table
    from planner.solving import solve

__all__ = ["Plan", "memory_table", "read_plan", "solve", "swaps_table", "write_plan"]

_HOMES = {"Plan": "planner.plan.plan", "solve": "planner.solving"}
_HOMES |= dict.fromkeys(("read_plan", "write_plan"), "planner.plan.plan_file")
_HOMES |= dict.fromkeys(("memory_table", "swaps_table"), "planner.report.tables")


def __getattr__(name: str) -> Any:
    # On first use: the data model takes longer to import than `plan --help` may take.
    if name not in _HOMES:
        raise AttributeError(f"module 'planner' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
