"""What recompute offers to a problem: gaps that could be ended by running ops again."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from planner.problem.gaps import Gap
from planner.problem.problem import Problem
from planner.recompute.recipes import Recipe, StepEffects, recipe_for
from planner.recompute.rewriting import MAX_RECIPE_OPS
from profiles.schema.profile import StorageKind

MAX_OPTIONS = 3
"""The last option of a gap counts what is run where it begins: less than at its end, at most."""


@dataclass(frozen=True)
class Option:
    """One way to end a gap by a recipe.

    Attributes:
        gap: Index of a whole gap.
        from_slot: The storage is rebuilt here at the earliest.
        until_slot: And here at the latest; no later than the gap's end.
        ops: What is run again at least, wherever between the two, whatever else is rebuilt or kept.
    """

    gap: int
    from_slot: int
    until_slot: int
    ops: frozenset[int]


@dataclass(frozen=True)
class Offers:
    """Recipes for gaps.

    [Note: what is run again at least] A storage is rebuilt at the end of its gap, or before, where
    the recipe of another needs it. That other one may be rebuilt early for the same reason; but the
    first of them is rebuilt where its own gap ends. So there is an earliest slot. From there on a
    recipe only grows, as storages end and are written: so each gap has a few options, with more ops
    the longer it lasts.

    Attributes:
        options: The options, those of one gap in order of their slots, the last one to its end.
        op_us: By op: its time.
    """

    options: tuple[Option, ...] = ()
    op_us: Mapping[int, float] = field(default_factory=dict)

    def only(self, gaps: Iterable[int]) -> "Offers":
        """Returns what is offered for some of the gaps."""
        wanted = frozenset(gaps)
        options = tuple(option for option in self.options if option.gap in wanted)
        ops = {op for option in options for op in option.ops}
        return Offers(options, {op: us for op, us in self.op_us.items() if op in ops})

    def cheapest_first(self, gaps: Sequence[Gap]) -> tuple[Gap, ...]:
        """Returns what is offered of some gaps, by what it runs again at its end for each byte."""
        # The last option of a gap is the one that ends where the gap does.
        last = {option.gap: option for option in self.options}
        cost_us = {i: sum(self.op_us[op] for op in option.ops) for i, option in last.items()}
        order = sorted(last, key=lambda i: (cost_us[i] / gaps[i].size_bytes, i))
        return tuple(gaps[i] for i in order)

    @property
    def gaps(self) -> frozenset[int]:
        """The gaps that can be ended by a recipe."""
        return frozenset(option.gap for option in self.options)


NO_OFFERS = Offers()


def offers_of(effects: StepEffects, problem: Problem) -> Offers:
    """Returns what can be rebuilt: activations that a recipe fills again at the end of a gap."""
    recipes: dict[int, Recipe] = {}
    for i, gap in enumerate(problem.whole_gaps):
        kind = effects.profile.storages[gap.storage].kind
        if kind is StorageKind.ACTIVATION and not problem.wraps(gap):
            recipe = _recipe_alone(effects, gap, gap.next_use_slot)
            if recipe is not None:
                recipes[i] = recipe
    options = tuple(
        option
        for i, slot in _earliest_slots(problem, recipes).items()
        for option in _options_of(effects, problem, i, slot, frozenset(recipes[i].ops))
    )
    ops = {op for option in options for op in option.ops}
    op_us = {op: effects.profile.ops[op].duration_us for op in sorted(ops)}
    return Offers(options, op_us)


def _options_of(
    effects: StepEffects, problem: Problem, i: int, slot: int, at_end: frozenset[int]
) -> Iterator[Option]:
    """The options of a gap, from its earliest slot on; `at_end` is what is run at its end."""
    gap = problem.whole_gaps[i]

    def ops_at(slot: int) -> frozenset[int]:
        recipe = _recipe_alone(effects, gap, slot)
        assert recipe is not None, "what can be rebuilt late can be rebuilt early"
        return frozenset(recipe.ops)

    for number in range(MAX_OPTIONS):
        ops = ops_at(slot)
        last, end = slot, gap.next_use_slot
        if ops == at_end or number == MAX_OPTIONS - 1:
            last = end
        else:
            # The last slot where no more is run.
            last += bisect_left(range(slot + 1, end + 1), True, key=lambda t: ops_at(t) != ops)
        yield Option(i, slot, last, ops)
        if last == end:
            return
        slot = last + 1


def _recipe_alone(effects: StepEffects, gap: Gap, slot: int) -> Recipe | None:
    """The recipe that ends a gap at a slot if nothing else is dropped."""
    wanted = [(gap.storage, effects.first_op[gap.first_slot])]
    return recipe_for(effects, slot, wanted, absent={}, max_ops=MAX_RECIPE_OPS)


def _earliest_slots(problem: Problem, recipes: Mapping[int, Recipe]) -> dict[int, int]:
    """For each gap with a recipe, see [Note: what is run again at least]."""
    gaps = problem.whole_gaps
    by_storage: dict[int, list[int]] = {}
    for i in recipes:
        by_storage.setdefault(gaps[i].storage, []).append(i)
    earliest = {i: gaps[i].next_use_slot for i in recipes}
    pending = [(slot, i) for i, slot in earliest.items()]
    heapify(pending)
    while pending:
        slot, i = heappop(pending)
        if slot > earliest[i]:
            continue
        for storage in recipes[i].made.keys() | recipes[i].found.keys():
            for j in by_storage.get(storage, ()):
                if gaps[j].first_slot <= slot < earliest[j]:
                    earliest[j] = slot
                    heappush(pending, (slot, j))
    return earliest
