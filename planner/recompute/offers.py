"""What recompute offers to a problem: gaps that could be ended by running ops again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from planner.problem.gaps import Gap
from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from planner.recompute.recipes import Recipe, StepEffects, recipe_for
from planner.recompute.rewriting import MAX_RECIPE_OPS
from profiles.schema.profile import StorageKind

Gaps = frozenset[int]


@dataclass(frozen=True)
class Option:
    """One way to end a gap by a recipe.

    Attributes:
        gap: Index of a whole gap.
        from_slot: The storage is rebuilt here at the earliest.
        until_slot: And here at the latest; no later than the gap's end.
        ops: What is run again at least, wherever between the two, whatever else is rebuilt or kept.
        reads: Storages that must be on the device then, of an option to one slot that says so;
            None if it may be rebuilt anywhere between the two.
        needed_by: If it is rebuilt before its gap ends: gaps of which one is ended at the same
            slot, by a recipe that needs it. None if that is not known.
    """

    gap: int
    from_slot: int
    until_slot: int
    ops: frozenset[int]
    reads: frozenset[int] | None = None
    needed_by: Gaps | None = None

    def is_to_anywhere(self, gap: Gap) -> bool:
        """Whether it is not known where in its gap the storage comes back, and may be swapped."""
        return self.reads is None and self.from_slot < gap.next_use_slot <= self.until_slot + 1

    def leaves_some(self, gap: Gap) -> bool:
        """Whether something is left of its gap then, in which the storage may be swapped."""
        return self.until_slot + 1 < gap.next_use_slot

    def open_over(self, gap: Gap) -> Gap:
        """Returns its gap, up to where the storage is back."""
        return gap if self.is_to_anywhere(gap) else replace(gap, next_use_slot=self.until_slot)

    def left_of(self, gap: Gap) -> Gap:
        """Returns what is left of its gap."""
        return replace(gap, first_slot=self.from_slot + 1)


@dataclass(frozen=True)
class Offers:
    """Recipes for gaps.

    [Note: what is run again at least] A storage is rebuilt at the end of its gap, or before, where
    the recipe of another needs it. That other one may be rebuilt early for the same reason; but the
    first of them is rebuilt where its own gap ends. So the slots are known where it may be. From
    each to the next a recipe only grows, as storages end and are written: so each gap has a few
    options to ranges of them, each with what is run again at the first.

    Attributes:
        options: The options, those of one gap in order of their slots, the last one to its end.
        op_us: By op: its time.
        whole_bytes: Smaller storages may be moved in parts where the others move as a whole.
    """

    options: tuple[Option, ...] = ()
    op_us: Mapping[int, float] = field(default_factory=dict)
    whole_bytes: int = 0

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
    recipes = recipes_at_ends(effects, problem)
    needed_by = _needed_by(effects, problem, recipes)
    early_slots = _early_slots(problem, recipes)
    return offers_from(
        effects,
        (
            option
            for i, recipe in recipes.items()
            for option in _options_of(effects, problem, i, early_slots[i], recipe, needed_by[i])
        ),
    )


def recipes_at_ends(effects: StepEffects, problem: Problem) -> dict[int, Recipe]:
    """Returns, by gap that a recipe can end, the one that does if nothing else is dropped."""
    recipes: dict[int, Recipe] = {}
    for i, gap in enumerate(problem.whole_gaps):
        kind = effects.profile.storages[gap.storage].kind
        if kind is StorageKind.ACTIVATION and not problem.wraps(gap):
            recipe = recipe_alone(effects, gap, gap.next_use_slot)
            if recipe is not None:
                recipes[i] = recipe
    return recipes


def by_storage_of(problem: Problem, some: Iterable[int]) -> dict[int, list[int]]:
    """Returns some gaps by their storage."""
    by_storage: dict[int, list[int]] = {}
    for i in some:
        by_storage.setdefault(problem.whole_gaps[i].storage, []).append(i)
    return by_storage


def offers_from(effects: StepEffects, options: Iterable[Option]) -> Offers:
    """Returns options, with the time of what they run."""
    kept = tuple(options)
    ops = {op for option in kept for op in option.ops}
    return Offers(kept, {op: effects.profile.ops[op].duration_us for op in sorted(ops)})


def _options_of(
    effects: StepEffects,
    problem: Problem,
    i: int,
    early_slots: Sequence[int],
    recipe: Recipe,
    needed_by: Gaps | None,
) -> Iterator[Option]:
    """The options of a gap: some to ranges of slots before its end, and one to its end."""
    gap = problem.whole_gaps[i]
    end = gap.next_use_slot
    if needed_by is None and early_slots:
        early_slots = range(early_slots[0], end)
    for first, last in _ranges(early_slots, problem.elapsed_us):
        early = recipe_alone(effects, gap, first)
        assert early is not None, "what can be rebuilt late can be rebuilt early"
        yield Option(i, first, last, frozenset(early.ops), needed_by=needed_by)
    yield Option(i, end, end, frozenset(recipe.ops))


def _ranges(slots: Sequence[int], elapsed_us: Sequence[float]) -> Iterator[tuple[int, int]]:
    """Yields the first and the last of some slots, divided where they are farthest apart."""
    apart = sorted(pairwise(slots), key=lambda two: elapsed_us[two[1]] - elapsed_us[two[0]])
    cuts = sorted(apart[-(SETTINGS.early_options - 1) :])
    firsts = [*slots[:1], *(after for _, after in cuts)]
    lasts = [*(before for before, _ in cuts), *slots[-1:]]
    yield from zip(firsts, lasts, strict=True)


def _needed_by(
    effects: StepEffects, problem: Problem, recipes: Mapping[int, Recipe]
) -> dict[int, Gaps | None]:
    """By gap, those whose recipes need its storage, wherever they are run: none needs more than
    at its end. None if some recipe makes another storage not as it is found later: run together
    with one that finds it, that may need more."""
    gaps = problem.whole_gaps
    by_storage: dict[int, set[int]] = {}
    for i, recipe in recipes.items():
        for storage in (recipe.made.keys() | recipe.found.keys()) - {gaps[i].storage}:
            by_storage.setdefault(storage, set()).add(i)
    is_known = all(
        recipe.ops.issuperset(effects.writers[storage])
        for i, recipe in recipes.items()
        for storage in recipe.made.keys() - {gaps[i].storage}
    )
    return {
        i: frozenset(by_storage.get(gaps[i].storage, ())) if is_known else None for i in recipes
    }


def recipe_alone(effects: StepEffects, gap: Gap, slot: int) -> Recipe | None:
    """Returns the recipe that ends a gap at a slot if nothing else is dropped."""
    wanted = [(gap.storage, effects.first_op[gap.first_slot])]
    return recipe_for(effects, slot, wanted, absent={}, max_ops=MAX_RECIPE_OPS)


def _early_slots(problem: Problem, recipes: Mapping[int, Recipe]) -> dict[int, list[int]]:
    """For each gap with a recipe the slots before its end where one is ended that needs its
    storage; see [Note: what is run again at least]."""
    gaps = problem.whole_gaps
    by_storage = by_storage_of(problem, recipes)
    by_end: dict[int, list[int]] = {}
    for i in recipes:
        by_end.setdefault(gaps[i].next_use_slot, []).append(i)
    early: dict[int, list[int]] = {i: [] for i in recipes}
    for slot, pending in sorted(by_end.items()):
        seen = set(pending)
        while pending:
            recipe = recipes[pending.pop()]
            for storage in recipe.made.keys() | recipe.found.keys():
                for j in by_storage.get(storage, ()):
                    if j not in seen and gaps[j].first_slot <= slot < gaps[j].next_use_slot:
                        seen.add(j)
                        early[j].append(slot)
                        pending.append(j)
    return early
