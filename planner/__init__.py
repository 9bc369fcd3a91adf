"""What to move and when: a plan for a recorded step, and how far from the best it can be.

`solve` makes a plan from a profile. Reading one needs no solver, so that the runtime can.
"""

from typing import TYPE_CHECKING

from profiles.schema.public_names import on_first_use

if TYPE_CHECKING:
    from planner.plan.plan import Plan
    from planner.plan.plan_file import read_plan, write_plan
    from planner.report.tables import memory_table, swaps_table
    from planner.solving import solve

__all__ = ["Plan", "memory_table", "read_plan", "solve", "swaps_table", "write_plan"]

__getattr__ = on_first_use(
    __name__,
    {
        "planner.plan.plan": ["Plan"],
        "planner.plan.plan_file": ["read_plan", "write_plan"],
        "planner.report.tables": ["memory_table", "swaps_table"],
        "planner.solving": ["solve"],
    },
)
