"""Random valid profiles for hypothesis: every kind of storage, empty slots, slots of many ops.

Hypothesis likes small and equal draws, which make steps that need no plan. So it draws a seed here,
and an ordinary generator makes a step from it in which storages idle and memory peaks.
"""

import random

from hypothesis import strategies as st

from profiles.schema.profile import LeftOut, Profile, StorageKind
from tests.support.planning.oracle import smallest_budget_bytes
from tests.support.planning.reference import resident_bytes
from tests.support.planning.toys import ToyStorage, toy, toy_link


def random_storage(
    rng: random.Random, number: int, ops: list[int], free_slots: list[int]
) -> ToyStorage:
    """One storage that lives over some stretch of the step.

    Args:
        rng: Where choices come from.
        number: Makes its name its own.
        ops: Ops in each slot.
        free_slots: Slots whose anchor shows nothing yet; the one taken is removed.
    """
    last = sum(ops) - 1
    allocated = rng.choice([None, *range(last + 1), *range(last // 2 + 1)])
    first = 0 if allocated is None else allocated
    released = rng.choice([None, *range(first, last + 1), *range((first + last) // 2, last + 1)])
    until = last if released is None else released
    lingers = _anchors_after(ops, last if released is None else released)
    uses = {rng.randint(first, until) for _ in range(rng.randint(0, 3))}
    if allocated is not None:
        # What an op allocates it writes; what is released was mostly used just before.
        uses |= {allocated} | ({until} if rng.random() < 0.7 else set())
    kind, shown_at = StorageKind.PARAMETER, 0
    left_out = rng.choice([None] * 8 + list(LeftOut))
    if allocated is not None:
        kind = StorageKind.ACTIVATION
        allocated_slot = next(t for t in range(len(ops)) if sum(ops[: t + 1]) > allocated)
        late_enough = [t for t in free_slots if t > allocated_slot]
        if late_enough:
            shown_at = late_enough[0] if rng.random() < 0.8 else rng.choice(late_enough)
            free_slots.remove(shown_at)
        else:
            left_out = LeftOut.NEVER_SHOWN
    return ToyStorage(
        name=f"{'parameter' if allocated is None else 'pack'}:{number}",
        size_bytes=rng.choice([0, 1, 256, 256, *rng.sample(range(1000), 6)]),
        kind=kind,
        uses=tuple(sorted(uses)),
        writes=frozenset({first} & uses),
        allocated_op=allocated,
        released_op=released,
        shown_at=None if left_out is LeftOut.NEVER_SHOWN else shown_at,
        left_out=left_out,
        lingers_slots=rng.choice([0, 0, lingers, rng.randint(0, lingers)]),
        touched_slots=_touched(rng, ops, first, until),
    )


def _slot_of(ops: list[int], op: int) -> int:
    return next(t for t in range(len(ops)) if sum(ops[: t + 1]) > op)


def _anchors_after(ops: list[int], op: int) -> int:
    """How many anchors stand between an op and the next one."""
    following = _slot_of(ops, op + 1) if op + 1 < sum(ops) else len(ops)
    return following - _slot_of(ops, op)


def _touched(rng: random.Random, ops: list[int], first: int, until: int) -> tuple[int, ...]:
    """Now and then a slot, within its life, that needs a storage without an op."""
    slots = range(_slot_of(ops, first) + 1, _slot_of(ops, until) + 1)
    return (rng.choice(slots),) if slots and rng.random() < 0.2 else ()


def random_profile(seed: int) -> Profile:
    """A step of 3 to 12 slots and `end`, with 2 to 13 storages; most can be squeezed."""
    rng = random.Random(seed)
    profile = any_profile(rng)
    while rng.random() < 0.9 and smallest_budget_bytes(profile) == peak_bytes(profile):
        profile = any_profile(rng)
    return profile


def any_profile(rng: random.Random) -> Profile:
    ops = [1, *(rng.choice([1, 1, 1, 0, 2]) for _ in range(rng.randint(2, 11)))]
    slots_us = [rng.choice([0.0, 50.0, rng.uniform(0, 500)]) for _ in ops]
    # A step takes some time.
    slots_us = slots_us if any(slots_us) else [50.0 for _ in ops]
    free_slots = list(range(1, len(ops) + 1))
    storages = [random_storage(rng, n, ops, free_slots) for n in range(rng.randint(2, 13))]
    link = toy_link(
        d2h_bytes_per_us=rng.choice([1.0, 3.0, 16.0, 50.0]),
        h2d_bytes_per_us=rng.choice([1.0, 4.0, 12.5, 50.0]),
        latency_us=rng.choice([0.0, 0.0, 2.5]),
    )
    overheads_bytes = [rng.choice([0, 0, 0, rng.randrange(500)]) for _ in (*ops, "end")]
    return toy(*slots_us, storages=storages, link=link, ops=ops, overheads_bytes=overheads_bytes)


def peak_bytes(profile: Profile) -> int:
    """Most bytes resident with nothing moved."""
    return max(resident_bytes(profile, t) for t in range(len(profile.slots)))


profiles: st.SearchStrategy[Profile] = st.integers(0, 2**32 - 1).map(random_profile)


@st.composite
def jobs(draw: st.DrawFn) -> tuple[Profile, int]:
    """A profile and a budget it can be planned for, mostly one that needs swaps."""
    profile = draw(profiles)
    smallest = smallest_budget_bytes(profile)
    share = draw(st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]))
    return profile, smallest + round(share * (peak_bytes(profile) - smallest))
