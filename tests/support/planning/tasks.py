"""Steps of equal slots, and what heuristics are asked for in them."""

from collections.abc import Sequence

from planner.heuristics.task import Task, task_of
from profiles.schema.profile import Link, Profile
from tests.support.planning.toys import ToyStorage, activation, fixed, toy


def task(profile: Profile, budget_bytes: int) -> Task:
    return task_of(profile, budget_bytes, min_size_bytes=1)


def steps_of_ten(count: int, storages: Sequence[ToyStorage], link: Link | None = None) -> Profile:
    return toy(*[10] * count, storages=storages, link=link)


def two_for_one_storages() -> list[ToyStorage]:
    return [activation("x", 6, 0, 6), activation("y", 6, 1, 5), fixed("w", 6, 3)]


def two_for_one() -> Profile:
    """x and y, 6 bytes each, idle while slot 3 needs 6 more: one of them must go at budget 12.

    x waits from slot 1 on for slot 6, y from slot 2 on for slot 5.
    """
    return steps_of_ten(7, two_for_one_storages())
