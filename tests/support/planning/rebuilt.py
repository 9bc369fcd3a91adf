"""Toys whose storages can be made again, and plans that do so."""

from planner.plan.plan import Plan, Without
from planner.solving import solve
from profiles.schema.profile import Profile
from tests.support.planning.toys import SLOW, activation, fixed, sandwich, toy


def repeatable(profile: Profile) -> Profile:
    """The same step, with nothing to know about running its ops a second time."""
    ops = tuple(op.model_copy(update={"traits": ()}) for op in profile.ops)
    return profile.model_copy(update={"ops": ops})


def slow_sandwich() -> Profile:
    """`sandwich`, over a link by which swapping takes 8000 us; making it again takes 1000."""
    return repeatable(sandwich().model_copy(update={"link": SLOW}))


def rebuilt_sandwich() -> Plan:
    """It, with its one activation dropped at slot 1 and made again at slot 4."""
    return solve(slow_sandwich(), budget_bytes=105, min_size_bytes=1, without=Without.NOTHING)


def mixed_plan() -> Plan:
    """`one_of_each` with a swap of `pack:1`, which is dear to make; the others are rebuilt."""
    return solve(one_of_each(), budget_bytes=100, min_size_bytes=1, without=Without.NOTHING)


def one_of_each() -> Profile:
    """Three activations of 50 bytes are idle while 100 bytes of work need room: `pack:0` and
    `pack:2` are made again in 10 us each, `pack:1` in 40,000."""
    storages = [
        activation("pack:0", 50, 0, 7),
        activation("pack:1", 50, 1, 6),
        activation("pack:2", 50, 2, 5),
        fixed("op:4", 100, 4),
    ]
    times_us = (10.0, 40_000.0, 10.0, 500.0, 1000.0, 500.0, 500.0, 500.0)
    return repeatable(toy(*times_us, storages=storages, link=SLOW))
