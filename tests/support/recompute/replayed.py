"""A step played over symbols: once as it was recorded, once as a plan's rebuilds replay it.

The content of a storage is a symbol: which op wrote it, and the contents of all that op had read.
Two contents are the same symbol if and only if the same ops have made them of the same things. The
replay gives back what is dropped and runs recipes as `planner.plan.plan` says they are run; it
shares no code with the planner, which it knows by its rebuilds alone.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from planner.plan.plan import Rebuild
from profiles.schema.profile import (
    Access,
    LeftOut,
    OpTrait,
    Profile,
    Storage,
    StorageKind,
    Touch,
)
from tests.support.planning.reference import alive_across, alive_at

Symbol = int
ONCE = {OpTrait.COLLECTIVE, OpTrait.WAITS, OpTrait.SHAPED_BY_DATA, OpTrait.UNKNOWN_EFFECTS}
"""Traits of ops that must never run twice."""
WRITTEN_UNSEEN = {LeftOut.NOT_RESIZABLE, LeftOut.EXCHANGED, LeftOut.RESIZED}
"""What is left out for these reasons may have been given other bytes before its first use."""


class Symbols:
    """Numbers for contents: equal ones have equal numbers."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, Symbol] = {}

    def of(self, *content: Hashable) -> Symbol:
        return self._numbers.setdefault(content, len(self._numbers))


@dataclass
class Life:
    """One stretch in which a storage holds bytes.

    Ops are those of the step that is replayed, with what is run again among them.
    """

    origin: int
    size_bytes: int
    ops: list[int] = field(default_factory=list)
    anchors: list[int] = field(default_factory=list)
    uses: list[tuple[int, Access]] = field(default_factory=list)
    touches: list[Touch] = field(default_factory=list)


@dataclass
class Held:
    """What is resident: its content, and the life it belongs to."""

    content: Symbol
    life: Life


class Step:
    """What the ops of a profile do.

    Attributes:
        profile: The step.
        uses: By op: what it is handed, as it is used.
        made: By op: what did not exist before it.
        statistics: By op: buffers that it writes and does not read.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.uses: list[dict[int, list[Access]]] = [{} for _ in profile.ops]
        self.made: list[set[int]] = [set() for _ in profile.ops]
        self.statistics: list[set[int]] = [set() for _ in profile.ops]
        for s in profile.storages:
            for use in s.uses:
                self.uses[use.op].setdefault(s.id, []).append(use.access)
                op = profile.ops[use.op]
                if use.access is not Access.WRITE:
                    continue
                if s.allocated_op == use.op and not self._is_from_outside(s, op.slot):
                    self.made[use.op].add(s.id)
                keeps = OpTrait.KEEPS_STATISTICS in (op.traits or ())
                if keeps and s.kind is StorageKind.BUFFER:
                    self.statistics[use.op].add(s.id)

    def _is_from_outside(self, s: Storage, slot: int) -> bool:
        """Whether a storage held something before an op in a slot was the first to find it."""
        came_in = s.kind is StorageKind.INPUT or s.allocated_slot <= slot
        return came_in or s.left_out in WRITTEN_UNSEEN

    def writes(self, k: int) -> set[int]:
        """What an op writes."""
        return {s for s, accesses in self.uses[k].items() if Access.WRITE in accesses}

    def read(self, k: int) -> set[int]:
        """What decides the op's results: all it is handed but what it makes or only keeps."""
        return self.uses[k].keys() - self.made[k] - self.statistics[k]

    def result(
        self, symbols: Symbols, k: int, s: int, read: dict[int, Symbol], before: Symbol | None
    ) -> Symbol:
        """The content that op k leaves in storage s."""
        kept = before if s in self.statistics[k] else None
        return symbols.of("op", k, s, kept, *sorted(read.items()))


class Replay:
    """A step under rebuilds, or with none as it was recorded.

    Attributes:
        read: By op of the recorded step: the contents that it read.
        lives: What held bytes, and when.
        ran_again: The ops that ran a second time.
    """

    def __init__(self, profile: Profile, symbols: Symbols, rebuilds: Sequence[Rebuild] = ()):
        self.profile = profile
        self.read: list[dict[int, Symbol]] = []
        self.lives: list[Life] = []
        self.ran_again: list[int] = []
        self._step = Step(profile)
        self._symbols = symbols
        self._rebuilds = rebuilds
        self._held: dict[int, Held] = {}
        self._dropped: dict[int, Symbol] = {}
        self._new_op = 0
        self._touches = [(s.id, touch) for s in profile.storages for touch in s.touches]
        self._opened = [
            (s, touch.slot) for s, touch in self._touches if touch.access is Access.WRITE
        ]
        for s in profile.storages:
            if s.allocated_slot == 0 and s.allocated_op is None:
                self._begin(s.id, symbols.of("begin", s.id))
        for t in range(len(profile.slots)):
            self._anchor(t)
            for k, op in enumerate(profile.ops):
                if op.slot == t:
                    self._op(k)
                    self._write_opened(t, k)
        assert not self._dropped, "something is not there when the step ends"

    def _begin(self, s_id: int, content: Symbol) -> None:
        self._held[s_id] = Held(content, self._life(s_id))

    def _life(self, s_id: int) -> Life:
        self.lives.append(Life(s_id, self.profile.storages[s_id].size_bytes))
        return self.lives[-1]

    def _anchor(self, t: int) -> None:
        alive = {s.id for s in alive_across(self.profile, t)}
        for rebuild in self._rebuilds:
            for drop in rebuild.drops:
                if drop.slot == t:
                    assert drop.storage in alive, f"anchor {t} drops what is not there"
                    self._dropped[drop.storage] = self._held.pop(drop.storage).content
        for s_id in alive:
            if s_id not in self._held and s_id not in self._dropped:
                # No op has made it.
                self._begin(s_id, self._symbols.of("outside", s_id))
            if s_id in self._held:
                self._held[s_id].life.anchors.append(t)
        self._write_opened(t, -1)
        for rebuild in self._rebuilds:
            if rebuild.slot == t:
                self._rebuild(rebuild, alive)
        for s_id, touch in self._touches:
            if touch.slot == t:
                assert s_id in self._held, f"anchor {t} touches storage {s_id}, which is dropped"
                self._held[s_id].life.touches.append(touch)

    def _write_opened(self, t: int, k: int) -> None:
        """What is open to writing in a slot may be written at any point of it."""
        for s_id, slot in self._opened:
            if slot == t and s_id in self._held:
                self._held[s_id].content = self._symbols.of("opened", s_id, t, k)

    def _op(self, k: int) -> None:
        step, symbols = self._step, self._symbols
        alive = [s.id for s in alive_at(self.profile, k)]
        for s_id in alive:
            if s_id not in self._held and s_id not in self._dropped:
                self._begin(s_id, symbols.of("outside", s_id))
        read = {}
        for s_id, accesses in step.uses[k].items():
            assert s_id in self._held, f"op {k} uses storage {s_id}, which is dropped"
            self._held[s_id].life.uses += [(self._new_op, access) for access in accesses]
            if s_id in step.read(k):
                read[s_id] = self._held[s_id].content
        self.read.append(read)
        for s_id in step.writes(k):
            held = self._held[s_id]
            held.content = step.result(symbols, k, s_id, read, held.content)
        for s_id in alive:
            if s_id in self._held:
                self._held[s_id].life.ops.append(self._new_op)
        self._new_op += 1

    def _rebuild(self, rebuild: Rebuild, alive: set[int]) -> None:
        """Runs a recipe, and fills what is dropped."""
        ops, filled = [op.op for op in rebuild.ops], {drop.storage for drop in rebuild.drops}
        assert ops == sorted(set(ops)), "the ops of a recipe run in program order"
        fresh: dict[int, Held] = {}
        last_op = {s_id: k for k in ops for s_id in self._step.uses[k]}
        for k in ops:
            self._run_again(k, fresh, alive)
            for s_id in fresh.keys() - filled:
                if last_op[s_id] == k:
                    del fresh[s_id]
        for s_id in filled:
            assert s_id in fresh, f"anchor {rebuild.slot} does not make storage {s_id} again"
            assert fresh[s_id].content == self._dropped.pop(s_id), f"storage {s_id} is another"
            self._held[s_id] = fresh[s_id]

    def _run_again(self, k: int, fresh: dict[int, Held], alive: set[int]) -> None:
        step, op = self._step, self.profile.ops[k]
        assert op.traits is not None, f"nothing is known of op {k}"
        assert not ONCE & set(op.traits), f"op {k} must not run again"
        used = step.uses[k].keys() - step.statistics[k]
        for s_id in step.made[k] - fresh.keys():
            fresh[s_id] = Held(-1, self._life(s_id))
        for s_id in step.writes(k) - step.statistics[k]:
            assert s_id in fresh, f"op {k} would write storage {s_id} of the step once more"
        for s_id in used - fresh.keys():
            assert s_id in alive, f"op {k} reads storage {s_id}, which is gone"
            assert s_id in self._held, f"op {k} reads storage {s_id}, which is dropped"
        now = {s_id: fresh.get(s_id) or self._held[s_id] for s_id in used}
        read = {s_id: now[s_id].content for s_id in step.read(k)}
        for s_id, held in now.items():
            writes = s_id in step.writes(k)
            held.life.uses.append((self._new_op, Access.WRITE if writes else Access.READ))
            if writes:
                held.content = step.result(self._symbols, k, s_id, read, None)
        for held in [*(self._held[s] for s in alive & self._held.keys()), *fresh.values()]:
            held.life.ops.append(self._new_op)
        self.ran_again.append(k)
        self._new_op += 1


def check_replay(profile: Profile, rebuilds: Sequence[Rebuild]) -> Replay:
    """Asserts that every op of a step reads under rebuilds what it read when it was recorded."""
    symbols = Symbols()
    recorded = Replay(profile, symbols)
    replayed = Replay(profile, symbols, rebuilds)
    assert replayed.read == recorded.read
    return replayed
