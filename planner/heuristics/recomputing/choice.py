"""A rule that may run ops again, what it is given, and what it makes of a step."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from planner.heuristics.heuristic import (
    KnownFrom,
    Swaps,
    in_order,
    one_stream_stall_us,
    timeline,
)
from planner.heuristics.recomputing.keeping import keeping, rebuilt_together
from planner.heuristics.task import StepView, Task, task_of
from planner.problem.gaps import Gap, candidate_gaps
from planner.problem.problem import Problem
from planner.problem.timed_swap import TimedSwap, held_bytes
from planner.recompute.recipes import StepEffects
from planner.recompute.rewriting import Rebuilding, RecomputedStep, recomputed
from planner.recompute.rewritten_problem import ProblemRewriter
from profiles.hardware.op_class import OpClass, class_of
from profiles.schema.profile import StorageKind

Stop = Callable[[], bool]
"""Asked often; once it says so, a rule makes do with what it has."""


@dataclass(frozen=True)
class Choice:
    """What a rule makes of a step: what is dropped and rebuilt, and what moves besides.

    Attributes:
        task: The step it was made for; storages that outlive their last use, because something
            that is run again reads them, do so in its profile.
        found: The recipes, in the order in which they are run.
        swaps: What moves in the step that runs them.
        one_stream: Whether its copies wait for each other.
        was_stopped: Whether the rule had no time to do all it does.
    """

    task: "RecomputeTask"
    found: tuple[Rebuilding, ...] = ()
    swaps: tuple[TimedSwap, ...] = ()
    one_stream: bool = False
    was_stopped: bool = False

    @property
    def dropped(self) -> frozenset[Gap]:
        """The gaps in which storages are dropped."""
        return frozenset(gap for rebuilding in self.found for gap in rebuilding.gaps)

    @cached_property
    def problem(self) -> Problem:
        """The problem of the rewritten step, with every gap that is left."""
        problem = self.task.rewriter.without(self.found)
        return replace(problem, budget_bytes=self.task.base.problem.budget_bytes)

    @property
    def recompute_us(self) -> float:
        """Time of what is run again."""
        return self.problem.compute_us - self.task.base.problem.compute_us

    @cached_property
    def peak_bytes(self) -> int:
        """Most bytes resident in any slot."""
        return max(held_bytes(self.problem, self.swaps))

    @property
    def over_bytes(self) -> int:
        """By how much it does not fit the budget; 0 if it does."""
        return max(0, self.peak_bytes - self.task.base.problem.budget_bytes)

    @cached_property
    def stall_us(self) -> float:
        """How long compute waits for copies."""
        if self.one_stream:
            return one_stream_stall_us(self.problem, self.swaps)
        return timeline(self.problem, self.swaps).total_stall_us

    @property
    def step_us(self) -> float:
        """Time of the whole step."""
        return self.problem.compute_us + self.stall_us

    def step(self) -> RecomputedStep:
        """Returns the rewritten step."""
        return recomputed(self.task.effects, self.found)

    def moving(self, rule: Callable[[Task], Swaps], *, one_stream: bool = False) -> "Choice":
        """Returns the same with the swaps of a rule for the rewritten step."""
        left = Task(self.task.base.step, self.problem)
        return replace(self, swaps=in_order(rule(left)), one_stream=one_stream)


@dataclass(frozen=True, eq=False)
class RecomputeTask:
    """A task for rules that may run ops again; rules remember by it what they found.

    Attributes:
        base: The task as other heuristics have it.
    """

    base: Task

    @cached_property
    def effects(self) -> StepEffects:
        """Who reads and writes what."""
        return StepEffects(self.base.step.profile)

    @cached_property
    def rewriter(self) -> ProblemRewriter:
        """Makes the problems of rewritten steps, for no budget at all: every gap is of use then."""
        return ProblemRewriter(self.effects, replace(self.base.problem, budget_bytes=0))

    @cached_property
    def saved(self) -> tuple[Gap, ...]:
        """The gaps in which activations of any size wait from forward to backward."""
        step = self.base.step
        return tuple(
            gap
            for gap in candidate_gaps(step.profile, 1, self.base.problem.boundary)
            if step.profile.storages[gap.storage].kind is StorageKind.ACTIVATION
            and gap.first_slot <= step.turn_slot <= gap.next_use_slot
        )

    @cached_property
    def turn_op(self) -> int:
        """The first op of backward."""
        return self.effects.first_op[self.base.step.turn_slot]

    def op_class(self, op: int) -> OpClass:
        """Returns the class of an op."""
        parts = self.base.step.profile.ops[op].name.split(".")
        return class_of(parts[1] if len(parts) > 1 else parts[0])

    def made_by(self, op: int) -> set[int]:
        """Returns the storages that an op allocates."""
        storages = self.base.step.profile.storages
        return {s for s in self.effects.ops[op].writes if storages[s].allocated_op == op}

    def with_budget(self, budget_bytes: int) -> "RecomputeTask":
        """Returns the same task for another budget."""
        return RecomputeTask(self.base.with_budget(budget_bytes))

    def keeping(self, until: Mapping[int, int]) -> "RecomputeTask":
        """Returns the task in which storages stay until the anchors of some slots, by id."""
        if not until:
            return self
        step = StepView(keeping(self.base.step.profile, until))
        problem = self.base.problem
        kept = task_of(step.profile, problem.budget_bytes, problem.link, problem.min_size_bytes)
        return RecomputeTask(kept)

    def dropping(
        self, groups: Iterable[Collection[Gap]], *, keeps_what_it_makes: bool = True
    ) -> "Choice | None":
        """Returns the choice to drop groups of gaps (see `rebuilt_together`), if it is one."""
        found = rebuilt_together(self.effects, groups, keeps_what_it_makes=keeps_what_it_makes)
        return None if found is None else Choice(self, found)


@dataclass(frozen=True, kw_only=True)
class Recomputing:
    """A published rule that runs ops again.

    Attributes:
        name: As it is printed.
        rule: What it makes of a step.
        source: Where it was published.
        known_from: How its rules became known to us.
        simplified: What is stated more simply here than there.
    """

    name: str
    rule: Callable[[RecomputeTask, Stop], Choice]
    source: str
    known_from: KnownFrom
    simplified: str
