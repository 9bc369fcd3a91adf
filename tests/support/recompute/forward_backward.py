"""Steps of four ops forward and four back, 10 us each, to run parts of again."""

from collections.abc import Sequence

from planner.heuristics.recomputing.choice import RecomputeTask
from profiles.schema.profile import Link, Profile
from tests.support.planning.tasks import task
from tests.support.planning.toys import ToyStorage, activation, fixed, toy

FORWARD = 4
WORK = fixed("work", 9, FORWARD)
"""What backward needs first, so that the peak is there."""
MM, CHEAP, SOFTMAX, BMM = (f"aten.{name}.default" for name in ("mm", "relu", "_softmax", "bmm"))


def step(
    storages: Sequence[ToyStorage],
    modules: str,
    names: Sequence[str] = (CHEAP,) * FORWARD,
    link: Link | None = None,
) -> Profile:
    """A step whose forward ops are in modules of one letter; every op may run again."""
    count = 2 * FORWARD
    plain = toy(*[10] * count, storages=[*storages, WORK], traits=[()] * count, link=link)
    ops = [
        op.model_copy(
            update={
                "module": modules[min(k, FORWARD - 1)],
                "name": names[k] if k < FORWARD else CHEAP,
            }
        )
        for k, op in enumerate(plain.ops)
    ]
    return plain.model_copy(update={"ops": tuple(ops)})


def two_blocks(link: Link | None = None) -> Profile:
    """Blocks a and b of two ops each.

    Op 0 makes x, op 1 reads it and makes y, op 2 reads that and makes z, op 3 reads that and makes
    w; backward reads w, z, y and x. While op 4 needs 9 bytes of work, 20 are resident.
    """
    storages = [
        activation("x", 4, 0, 1, 7),
        activation("y", 2, 1, 2, 6),
        activation("z", 4, 2, 3, 5),
        activation("w", 1, 3, 4),
    ]
    return step(storages, "aabb", link=link)


def asked(profile: Profile, budget_bytes: int) -> RecomputeTask:
    """The task, with every storage large enough to move."""
    return RecomputeTask(task(profile, budget_bytes))


def never() -> bool:
    """There is time."""
    return False
