"""Small plans to look at: one that stalls, one that goes round the step boundary, an empty one."""

from functools import cache

from planner.plan.plan import Plan
from planner.solving import solve
from tests.support.planning.toys import (
    activation,
    fixed,
    toy,
    toy_link,
    transformer_like,
    unet_like,
)


@cache
def stalling_plan() -> Plan:
    """Thirds of a microsecond everywhere, and a link that is too slow."""
    profile = toy(
        *[10 / 3] * 8,
        storages=[
            activation("pack:0", 60, 0, 7),
            activation("pack:1", 40, 1, 6),
            fixed("workspace", 100, 3),
        ],
        link=toy_link(7.0, 13.0),
    )
    plan = solve(profile, budget_bytes=120)
    assert plan.certificate.simulated_stall_us > 0
    return plan


@cache
def periodic_plan() -> Plan:
    plan = solve(transformer_like(6), budget_bytes=1344)
    assert any(swap.wraps for swap in plan.swaps)
    assert any(swap.clean for swap in plan.swaps)
    return plan


@cache
def empty_plan() -> Plan:
    return solve(unet_like(3), budget_bytes=10**9)
