"""Random small steps made op by op, to run some of their ops again.

Ops read several storages, write in place, make several results, keep statistics and have traits;
storages are freed early or linger, and some are found before any op uses them. The first half of a
step makes most of what its second half reads, the youngest first, as a backward does.
"""

import random
from dataclasses import dataclass, field

from hypothesis import strategies as st

from profiles.schema.profile import Access, LeftOut, OpTrait, Profile, StorageKind
from tests.support.planning.toys import ToyStorage, toy, toy_link

NEVER_AGAIN = (
    OpTrait.COLLECTIVE,
    OpTrait.WAITS,
    OpTrait.SHAPED_BY_DATA,
    OpTrait.UNKNOWN_EFFECTS,
)


@dataclass
class _Growing:
    """A storage while its step is made."""

    kind: StorageKind
    allocated_op: int | None
    uses: dict[int, Access] = field(default_factory=dict)
    released_op: int | None = None

    def use(self, op: int, access: Access) -> None:
        self.uses.setdefault(op, access)


class _OpStep:
    """One step; see the module docstring."""

    def __init__(self, rng: random.Random, most_slots: int, traits_chance: float) -> None:
        self.rng = rng
        self.traits_chance = traits_chance
        self.ops = [rng.choice([1, 1, 1, 1, 2, 3, 0]) for _ in range(rng.randint(4, most_slots))]
        self.ops[rng.randrange(2)] += 1
        self.count = sum(self.ops)
        self.traits: list[tuple[OpTrait, ...] | None] = []
        kinds = [StorageKind.PARAMETER] * rng.randint(0, 2) + [StorageKind.BUFFER] * rng.choice(
            [0, 1]
        )
        self.alive = [_Growing(kind, None) for kind in (*kinds, StorageKind.INPUT)]
        self.gone: list[_Growing] = []
        for k in range(self.count):
            self._add_op(k)

    def _add_op(self, k: int) -> None:
        rng = self.rng
        early = k < self.count // 2
        known = sorted(self.alive, key=lambda s: -1 if s.allocated_op is None else s.allocated_op)
        newest = known[-4:] if early else self._unread(known) or known
        for _ in range(rng.choice([0, 1, 1, 2] if early else [1, 1, 2, 3])):
            if known:
                read = rng.choice(newest if rng.random() < 0.8 else known)
                read.use(k, Access.READ)
        if known and rng.random() < 0.3:
            written = rng.choice(newest if rng.random() < 0.7 else known)
            written.uses[k] = Access.WRITE
        traits = self._traits()
        buffers = [s for s in known if s.kind is StorageKind.BUFFER]
        if traits is not None and OpTrait.KEEPS_STATISTICS in traits and buffers:
            rng.choice(buffers).uses[k] = rng.choice([Access.WRITE, Access.WRITE, Access.READ])
        self.traits.append(traits)
        for _ in range(rng.choice([1, 1, 1, 2] if early else [0, 0, 1])):
            kinds = [StorageKind.ACTIVATION] * 12 + [StorageKind.TEMPORARY] * 2
            # An input that is seen first by an op was made by none, even if that writes it.
            kinds += [StorageKind.GRADIENT] * 2 + [StorageKind.INPUT]
            made = _Growing(rng.choice(kinds), k)
            # Now and then an op does not write what it is the first to find.
            made.uses[k] = Access.READ if rng.random() < 0.04 else Access.WRITE
            self.alive.append(made)
        for s in [s for s in self.alive if s.allocated_op != k]:
            passing = s.kind in (StorageKind.ACTIVATION, StorageKind.TEMPORARY, StorageKind.INPUT)
            is_read = max([*s.uses, -1]) >= self.count // 2
            if passing and rng.random() < (0.4 if is_read else 0.06):
                s.released_op = k if rng.random() < 0.7 else max([*s.uses, s.allocated_op or 0])
                self.alive.remove(s)
                self.gone.append(s)

    def _unread(self, known: list[_Growing]) -> list[_Growing]:
        """The youngest that a forward has made and no op of a backward has read."""
        half = self.count // 2
        made = [s for s in known if s.allocated_op is not None and s.allocated_op < half]
        return [s for s in made if max(s.uses) < half][-2:]

    def _traits(self) -> tuple[OpTrait, ...] | None:
        rng = self.rng
        if rng.random() < self.traits_chance:
            return rng.choice([None, None, *((trait,) for trait in NEVER_AGAIN)])
        return rng.choice([(), (), (), (OpTrait.RANDOM,), (OpTrait.KEEPS_STATISTICS,)])

    def profile(self, *, whole: bool) -> Profile:
        """The step; `whole` numbers are times that an exact model can count."""
        rng = self.rng
        free_slots = list(range(1, len(self.ops) + 1))
        everything = sorted([*self.gone, *self.alive], key=lambda s: s.allocated_op or -1)
        storages = [self._storage(n, s, free_slots, whole) for n, s in enumerate(everything)]
        if whole:
            slots_us = [float(count * rng.randint(0, 3)) for count in self.ops]
            link = toy_link(rng.choice([1, 0.5]), rng.choice([1, 0.5]), rng.choice([0, 0, 1]))
        else:
            slots_us = [rng.choice([0.0, 50.0, rng.uniform(0, 500)]) for _ in self.ops]
            rates = [1.0, 3.0, 16.0, 50.0]
            link = toy_link(rng.choice(rates), rng.choice(rates), rng.choice([0.0, 0.0, 2.5]))
        slots_us = slots_us if any(slots_us) else [2.0 for _ in self.ops]
        overheads = [0, 0, 0, rng.randrange(5 if whole else 500)]
        return toy(
            *slots_us,
            storages=storages,
            link=link,
            ops=self.ops,
            overheads_bytes=[rng.choice(overheads) for _ in (*self.ops, "end")],
            traits=self.traits,
        )

    def _slot_of(self, op: int) -> int:
        return next((t for t in range(len(self.ops)) if sum(self.ops[: t + 1]) > op), len(self.ops))

    def _storage(self, n: int, s: _Growing, free_slots: list[int], whole: bool) -> ToyStorage:
        rng, owned = self.rng, s.kind in (StorageKind.PARAMETER, StorageKind.BUFFER)
        lives_on = owned or (s.kind is StorageKind.GRADIENT and rng.random() < 0.5)
        if not lives_on and s.released_op is None and rng.random() < 0.8:
            s.released_op = max([*s.uses, s.allocated_op or 0])
        first = -1 if s.allocated_op is None else self._slot_of(s.allocated_op)
        last = len(self.ops) if s.released_op is None else self._slot_of(s.released_op)
        lingers = 0
        if s.released_op is not None:
            lingers = rng.choice([0, 0, self._slot_of(s.released_op + 1) - last])
        early = 0
        if s.allocated_op is not None and s.allocated_op > 0 and rng.random() < 0.05:
            early = first - self._slot_of(s.allocated_op - 1)
        shown_at, left_out = 0, rng.choice([None] * 40 + list(LeftOut))
        shown = [t for t in free_slots if first + 1 - early <= t <= last + lingers]
        if s.allocated_op is None and s.kind is StorageKind.INPUT:
            left_out = LeftOut.NEVER_SHOWN
        elif s.allocated_op is not None and not shown:
            left_out = left_out or LeftOut.NEVER_SHOWN
        elif s.allocated_op is not None:
            shown_at = shown[0] if rng.random() < 0.8 else rng.choice(shown)
        if left_out is LeftOut.NEVER_SHOWN or (s.allocated_op is not None and not shown):
            left_out, shown_at = LeftOut.NEVER_SHOWN, -2
        if shown_at > 0:
            free_slots.remove(shown_at)
        touchable = range(max(0, first + 1 - early), min(last + lingers, len(self.ops) - 1) + 1)
        touched = [t for t in touchable if rng.random() < 0.15 / len(touchable)]
        words = {
            StorageKind.ACTIVATION: "pack",
            StorageKind.GRADIENT: "grad",
            StorageKind.TEMPORARY: "op",
        }
        return ToyStorage(
            name=f"{words.get(s.kind, s.kind.value)}:{n}",
            size_bytes=rng.randint(1, 6) if whole else rng.choice([0, *rng.sample(range(999), 7)]),
            kind=s.kind,
            uses=tuple(sorted(s.uses)),
            writes=frozenset(k for k, access in s.uses.items() if access is Access.WRITE),
            allocated_op=s.allocated_op,
            released_op=s.released_op,
            shown_at=None if shown_at < 0 else shown_at,
            left_out=left_out,
            lingers_slots=lingers,
            early_slots=early,
            touched_slots=tuple(touched),
            opened_slots=tuple(t for t in touched if rng.random() < 0.3),
        )


def op_step(
    seed: int, *, most_slots: int = 12, whole: bool = False, traits_chance: float = 0.06
) -> Profile:
    """A step of 4 slots or more, and `end`.

    Args:
        seed: Each makes another one.
        most_slots: How many slots it may have.
        whole: Whether times and copies are whole microseconds.
        traits_chance: How many ops must not be run again.
    """
    return _OpStep(random.Random(seed), most_slots, traits_chance).profile(whole=whole)


op_steps: st.SearchStrategy[Profile] = st.integers(0, 2**32 - 1).map(op_step)
