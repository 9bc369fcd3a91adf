"""The smallest budget that can be met, and what keeps it from being smaller.

Every gap that can be used is used from end to end, and still one op needs that much: it is the
budget's wall, with the storages that the device must hold then.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from planner.ilp.deadline import Deadline, SolverName
from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from profiles.schema.errors import BudgetError, SolverError
from profiles.schema.memory import Moment, alive_at, neediest_moments, ops_of_slots
from profiles.schema.profile import LeftOut, Profile, Storage, StorageKind
from profiles.schema.units import size_text_down, size_text_up


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
    """A storage that the device holds while the op runs, and why."""

    name: str
    kind: StorageKind
    module: str
    size_bytes: int
    stays: Stays


@dataclass(frozen=True, kw_only=True)
class BudgetWall:
    """The op that sets the smallest budget, and what is on the device then.

    Attributes:
        op: Its name; empty if the slot has no ops, and what lives across it is what counts.
        next_bytes: What the smallest budget would be if this slot needed nothing.
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
    """No plan meets the budget; its `wall` is why."""

    def __init__(self, message: str, wall: BudgetWall) -> None:
        super().__init__(message, wall.smallest_budget_bytes)
        self.wall = wall


class Widest(NamedTuple):
    """The set of gaps that reaches the smallest budget.

    Attributes:
        chosen: The set.
        is_proven: Whether no other reaches a smaller one, or only none is known.
    """

    chosen: frozenset[int]
    is_proven: bool = True


def widest_set(problem: Problem, solver: SolverName) -> Widest:
    """Returns the set of gaps that reaches the smallest budget.

    Without a host budget it is every gap. With one it comes from the ILP with a slack on the budget
    (`planner.ilp.model`, goal BUDGET), and its whole swaps fit the host pool.

    Raises:
        SolverError: The solver failed.
    """
    if problem.host_budget_bytes is None or problem.whole_fits_host(problem.whole_set):
        return Widest(problem.whole_set)
    if not problem.swappable:
        return Widest(frozenset())
    host_bytes = problem.host_budget_bytes
    while True:
        # From budget 0, so that the set is the same whatever budget was asked for.
        hard = replace(problem, budget_bytes=0, host_budget_bytes=host_bytes)
        found = _solve_budget(hard, solver)
        over_bytes = problem.whole_pool_bytes(found.chosen) - problem.host_budget_bytes
        if over_bytes <= 0:
            return found
        # The ILP counts bytes, the pool must also place them side by side: leave room for that.
        host_bytes = max(0, host_bytes - over_bytes)


def check_budget(problem: Problem, widest: Widest, profile: Profile) -> None:
    """Checks that the budget can be met at all.

    Raises:
        UnmetBudgetError: It cannot. The message names the smallest budget that can, or the smallest
            known, and the op that sets it.
    """
    if not problem.fits(widest.chosen):
        raise unmet_budget(problem, widest, profile)


def unmet_budget(problem: Problem, widest: Widest, profile: Profile) -> UnmetBudgetError:
    """Returns the error that says what keeps a budget from being met."""
    wall = budget_wall(profile, problem, widest.chosen)
    host = {None: "", 0: ", allow swaps"}.get(problem.host_budget_bytes, ", a larger host budget")
    met = "the smallest that can" if widest.is_proven else "one that can"
    return UnmetBudgetError(
        f"budget {size_text_down(problem.budget_bytes)} cannot be met: {met} is "
        f"{size_text_up(wall.smallest_budget_bytes)}, set by {wall.place}. Ask for at least "
        f"that{host}, or make the step smaller (batch, crop, model).",
        wall,
    )


def _solve_budget(problem: Problem, solver: SolverName) -> Widest:
    # Whoever only reads a wall need not wait for the solver's modules.
    from planner.ilp.model import build
    from planner.ilp.solver import Outcome, solve_model
    from planner.ilp.variables import Goal

    # Messages name the smallest budget as one to ask for: a share of it is not near enough.
    deadline = Deadline.within(SETTINGS.budget_time_limit_s)
    solved = solve_model(build(problem, Goal.BUDGET), solver, deadline, mip_gap=0.0)
    if solved.outcome not in (Outcome.OPTIMAL, Outcome.FOUND):
        raise SolverError(
            f"{solver.value} found no smallest budget in {SETTINGS.budget_time_limit_s:.0f} s. "
            "Give a larger --host-budget, or try the other one of --solver."
        )
    return Widest(solved.chosen, solved.outcome is Outcome.OPTIMAL)


def budget_wall(profile: Profile, problem: Problem, chosen: frozenset[int]) -> BudgetWall:
    """Returns what sets the smallest budget, which a set of gaps reaches.

    The problem's own budget does not matter.
    """
    floor_bytes = problem.floor_bytes(chosen).tolist()
    t = floor_bytes.index(max(floor_bytes))
    is_open = [
        any(part.start <= t < part.stop for part in problem.open_slices(gap))
        for gap in problem.gaps
    ]
    away = {problem.gaps[i].storage for i in chosen if is_open[i]}
    idle = {gap.storage for gap, is_idle in zip(problem.gaps, is_open, strict=True) if is_idle}
    moment, slot_ops = neediest_moments(profile)[t], ops_of_slots(profile)[t]
    is_last = t == len(profile.slots) - 1
    held = [
        HeldStorage(
            name=storage.name,
            kind=storage.kind,
            module=storage.module,
            size_bytes=storage.size_bytes,
            stays=_stays(
                storage,
                moment,
                slot_ops,
                is_last=is_last,
                is_idle=storage.id in idle,
                is_small=storage.size_bytes < problem.min_size_bytes,
            ),
        )
        for storage in alive_at(profile, moment)
        if storage.id not in away
    ]
    beyond = HeldStorage(
        name="",
        kind=StorageKind.TEMPORARY,
        module="",
        size_bytes=profile.slots[t].overhead_bytes,
        stays=Stays.BEYOND,
    )
    present = (one for one in (*held, beyond) if one.size_bytes > 0)
    op = None if moment.op is None else profile.ops[moment.op]
    return BudgetWall(
        slot=t,
        anchor=profile.slots[t].anchor,
        op=op.name if op else "",
        module=op.module if op else "",
        smallest_budget_bytes=floor_bytes[t],
        next_bytes=max(floor_bytes[:t] + floor_bytes[t + 1 :]),
        min_size_bytes=problem.min_size_bytes,
        held=tuple(sorted(present, key=lambda one: (-one.size_bytes, one.name))),
    )


def _stays(
    storage: Storage,
    moment: Moment,
    slot_ops: range,
    *,
    is_last: bool,
    is_idle: bool,
    is_small: bool,
) -> Stays:
    """Why a storage is allocated at the moment of a slot that needs the most."""
    uses = {use.op for use in storage.uses}
    if moment.op in uses or any(touch.slot == moment.slot for touch in storage.touches):
        return Stays.IN_USE
    if storage.left_out is not None:
        return Stays(storage.left_out.value)
    if is_idle:
        return Stays.HOST_BUDGET
    if not uses.isdisjoint(slot_ops):
        return Stays.NO_ANCHOR
    if is_small:
        return Stays.TOO_SMALL
    if is_last:
        return Stays.BOUNDARY
    if storage.released_op is not None and max(uses, default=-1) < slot_ops.start:
        return Stays.KEPT
    return Stays.NO_ANCHOR
