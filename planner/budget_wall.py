"""What keeps the smallest budget from being smaller: one op, and the storages the device must hold.

Every gap that can be used is used from end to end, and still this op needs that much.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from planner.problem.gaps import Gap
from planner.problem.problem import Problem
from profiles.schema.errors import BudgetError
from profiles.schema.memory import alive_at, neediest_moments, ops_of_slots
from profiles.schema.profile import LeftOut, Profile, Storage, StorageKind


class Stays(StrEnum):
    """Why a storage is on the device while an op runs."""

    IN_USE = "in use by this op"
    NO_ANCHOR = "no anchor between its ops and this one"
    NEVER_SHOWN = LeftOut.NEVER_SHOWN.value
    NOT_RESIZABLE = LeftOut.NOT_RESIZABLE.value
    EXCHANGED = LeftOut.EXCHANGED.value
    RESIZED = LeftOut.RESIZED.value
    TOO_SMALL = "smaller than the minimum size"
    HOST_BUDGET = "no room in the host budget"
    KEPT = "kept, though the step does not use it again"
    BOUNDARY = "must be there when the step begins or ends"
    BEYOND = "beyond storages: rounding and workspace of kernels"


@dataclass(frozen=True, kw_only=True)
class HeldStorage:
    """A storage that the device holds while the op runs.

    Attributes:
        name: Its name.
        kind: Who owns it.
        module: The leaf module it was first seen in.
        size_bytes: Its bytes.
        stays: Why it is there.
    """

    name: str
    kind: StorageKind
    module: str
    size_bytes: int
    stays: Stays


@dataclass(frozen=True, kw_only=True)
class BudgetWall:
    """The op that sets the smallest budget, and what is on the device then.

    Attributes:
        slot: The slot it runs in.
        anchor: The anchor that opens that slot.
        op: Its name; empty if the slot has no ops, and what lives across it is what counts.
        module: The leaf module it runs in.
        smallest_budget_bytes: The smallest budget that can be met.
        next_bytes: What it would be if this slot needed nothing.
        min_size_bytes: Storages below that stay.
        held: What is on the device, largest first.
    """

    slot: int
    anchor: str
    op: str
    module: str
    smallest_budget_bytes: int
    next_bytes: int
    min_size_bytes: int
    held: tuple[HeldStorage, ...]

    @property
    def place(self) -> str:
        """The op and where it stands, in words."""
        module = f", module {self.module}" if self.module else ""
        op = self.op or "what lives across it"
        return f"{op} in slot {self.slot} ({self.anchor}{module})"

    @property
    def bytes_by_reason(self) -> dict[Stays, int]:
        """Bytes held for each reason, the most first."""
        sums: dict[Stays, int] = defaultdict(int)
        for storage in self.held:
            sums[storage.stays] += storage.size_bytes
        return dict(sorted(sums.items(), key=lambda pair: (-pair[1], pair[0])))


class UnmetBudgetError(BudgetError):
    """No plan meets the budget, and why.

    Attributes:
        wall: What sets the smallest budget that can be met.
    """

    def __init__(self, message: str, wall: BudgetWall) -> None:
        super().__init__(message, wall.smallest_budget_bytes)
        self.wall = wall


def budget_wall(profile: Profile, problem: Problem, widest: Iterable[int]) -> BudgetWall:
    """Returns what sets the smallest budget.

    Args:
        profile: The step.
        problem: The problem; its own budget does not matter.
        widest: The set of gaps that reaches the smallest budget.
    """
    chosen = frozenset(widest)
    floor_bytes = problem.floor_bytes(chosen)
    t = floor_bytes.index(max(floor_bytes))
    moment = _Moment(profile, t)
    away = {problem.gaps[i].storage for i in chosen if _is_open(problem, problem.gaps[i], t)}
    idle = {gap.storage for gap in problem.gaps if _is_open(problem, gap, t)}
    held = [
        _held(storage, moment.stays(storage, problem.min_size_bytes, storage.id in idle))
        for storage in moment.allocated
        if storage.id not in away and storage.size_bytes > 0
    ]
    held += _beyond(profile.slots[t].overhead_bytes)
    op = None if moment.op is None else profile.ops[moment.op]
    return BudgetWall(
        slot=t,
        anchor=profile.slots[t].anchor,
        op=op.name if op else "",
        module=op.module if op else "",
        smallest_budget_bytes=floor_bytes[t],
        next_bytes=max(floor_bytes[:t] + floor_bytes[t + 1 :]),
        min_size_bytes=problem.min_size_bytes,
        held=tuple(sorted(held, key=lambda one: (-one.size_bytes, one.name))),
    )


class _Moment:
    """The moment of a slot at which the most is allocated with nothing moved.

    Attributes:
        slot: The slot.
        op: The first op that needs the most; None if none needs more than the slot's anchor finds.
        allocated: The storages allocated then.
    """

    def __init__(self, profile: Profile, t: int) -> None:
        self.slot = t
        self._profile = profile
        self._ops = ops_of_slots(profile)[t]
        moment = neediest_moments(profile)[t]
        self.op = moment.op
        self.allocated = alive_at(profile, moment)

    def stays(self, storage: Storage, min_size_bytes: int, is_idle: bool) -> Stays:
        """Why a storage is there.

        Args:
            storage: One of those allocated.
            min_size_bytes: Smaller storages are no candidates.
            is_idle: Whether it is in one of its gaps.
        """
        uses = {use.op for use in storage.uses}
        if self.op in uses or any(touch.slot == self.slot for touch in storage.touches):
            return Stays.IN_USE
        if storage.left_out is not None:
            return Stays(storage.left_out.value)
        if is_idle:
            return Stays.HOST_BUDGET
        if not uses.isdisjoint(self._ops):
            return Stays.NO_ANCHOR
        if storage.size_bytes < min_size_bytes:
            return Stays.TOO_SMALL
        return self._stays_without_gap(storage, max(uses, default=-1))

    def _stays_without_gap(self, storage: Storage, last_use: int) -> Stays:
        """Why a storage that no op of the slot uses is in no gap either."""
        end_slot = len(self._profile.slots) - 1
        if self.slot == end_slot:
            return Stays.BOUNDARY
        if storage.released_op is not None and last_use < self._ops.start:
            return Stays.KEPT
        return Stays.NO_ANCHOR


def _beyond(overhead_bytes: int) -> list[HeldStorage]:
    """What the device needs that no storage stands for."""
    if overhead_bytes == 0:
        return []
    kind = StorageKind.TEMPORARY
    return [
        HeldStorage(name="", kind=kind, module="", size_bytes=overhead_bytes, stays=Stays.BEYOND)
    ]


def _held(storage: Storage, stays: Stays) -> HeldStorage:
    return HeldStorage(
        name=storage.name,
        kind=storage.kind,
        module=storage.module,
        size_bytes=storage.size_bytes,
        stays=stays,
    )


def _is_open(problem: Problem, gap: Gap, t: int) -> bool:
    return gap.is_open_in(t, problem.slot_count)
