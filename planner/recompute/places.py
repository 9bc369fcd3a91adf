"""Where the gaps of large storages may be ended, slot by slot, and what must be there then.

`planner.recompute.offers` knows the first and the last of these slots. What a recipe reads, and
which other recipe asks for it, is another thing in each of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from planner.recompute.offers import (
    Offers,
    Option,
    by_storage_of,
    offers_from,
    offers_of,
    recipe_alone,
    recipes_at_ends,
)
from planner.recompute.recipes import Recipe, StepEffects


@dataclass(frozen=True)
class _Place:
    """What may be run at one slot.

    Attributes:
        recipes: By gap that may be ended there, the recipe that does if nothing else is dropped.
        needed_by: By storage, the gaps whose recipes make or read it.
        tangled: Storages that one of them makes and another finds: run together, both make them.
        is_known: Whether running them together needs no other storages than each of them does: what
            is tangled has no writers but those that are run.
    """

    recipes: Mapping[int, Recipe]
    needed_by: Mapping[int, tuple[int, ...]]
    tangled: frozenset[int]
    is_known: bool


def placed_offers(effects: StepEffects, problem: Problem, whole_bytes: int | None = None) -> Offers:
    """Returns `offers_of`, with more about what is as large as that; by default, a few gaps.

    Such a gap has an option to each slot where one of them ends, if it may be ended there too, and
    one to whatever slots are between two of those. If that is too much to look at, all stays as it
    is there.
    """
    offers = offers_of(effects, problem)
    places = _places(effects, problem)
    gaps = problem.whole_gaps
    if whole_bytes is None:
        sizes_bytes = sorted((gap.size_bytes for gap in gaps), reverse=True)
        whole_bytes = 1 + max(sizes_bytes[SETTINGS.max_placed_gaps :], default=0)
    large = frozenset(i for i in offers.gaps if gaps[i].size_bytes >= whole_bytes)
    if not (places and large):
        return offers
    ends = {gaps[i].next_use_slot for i in large}
    others = (option for option in offers.options if option.gap not in large)
    options = (
        option for i in sorted(large) for option in _options(problem, i, places, large, ends)
    )
    return replace(offers_from(effects, (*others, *options)), whole_bytes=whole_bytes)


def _places(effects: StepEffects, problem: Problem) -> dict[int, _Place]:
    """By slot, what may be run there; nothing at all if that is too much.

    A gap may be ended at its end, or wherever the recipe of another is run that needs its storage.
    """
    gaps = problem.whole_gaps
    ends = recipes_at_ends(effects, problem)
    by_storage = by_storage_of(problem, ends)
    found: dict[int, dict[int, Recipe]] = {}
    pending = [(i, gaps[i].next_use_slot) for i in ends]
    count = 0
    while pending:
        i, slot = pending.pop()
        recipes = found.setdefault(slot, {})
        if i in recipes:
            continue
        recipe = recipe_alone(effects, gaps[i], slot)
        assert recipe is not None, "what can be rebuilt late can be rebuilt early"
        recipes[i] = recipe
        count += 1
        if count > SETTINGS.max_places:
            return {}
        pending += (
            (j, slot)
            for storage in recipe.made.keys() | recipe.found.keys()
            for j in by_storage.get(storage, ())
            if gaps[j].first_slot < slot < gaps[j].next_use_slot
        )
    return {slot: _place(effects, problem, recipes) for slot, recipes in found.items()}


def _place(effects: StepEffects, problem: Problem, recipes: Mapping[int, Recipe]) -> _Place:
    needed_by: dict[int, list[int]] = {}
    made_by: dict[int, list[Recipe]] = {}
    for i, recipe in recipes.items():
        own = problem.whole_gaps[i].storage
        for storage in (recipe.made.keys() | recipe.found.keys()) - {own}:
            needed_by.setdefault(storage, []).append(i)
        for storage in recipe.made.keys() - {own}:
            made_by.setdefault(storage, []).append(recipe)
    found = {storage for recipe in recipes.values() for storage in recipe.found}
    tangled = frozenset(found & made_by.keys())
    return _Place(
        recipes=recipes,
        needed_by={storage: tuple(by) for storage, by in needed_by.items()},
        tangled=tangled,
        is_known=all(
            recipe.ops.issuperset(effects.writers[storage])
            for storage in tangled
            for recipe in made_by[storage]
        ),
    )


def _options(
    problem: Problem,
    i: int,
    places: Mapping[int, _Place],
    large: frozenset[int],
    ends: set[int],
) -> Iterator[Option]:
    """The options of a large gap, in order of their slots."""
    stored = frozenset(gap.storage for gap in problem.whole_gaps)
    between: list[int] = []
    for slot in sorted(slot for slot, place in places.items() if i in place.recipes):
        if slot not in ends:
            between.append(slot)
            continue
        if between:
            yield _option(problem, i, between, places, large)
            between = []
        place = places[slot]
        reads = stored.intersection(place.recipes[i].found) - place.tangled
        yield replace(_option(problem, i, [slot], places, large), reads=reads)
    assert not between, "the last slot is the end of a large gap, which is this one's"


def _option(
    problem: Problem,
    i: int,
    slots: Sequence[int],
    places: Mapping[int, _Place],
    large: frozenset[int],
) -> Option:
    ops = frozenset(places[slots[0]].recipes[i].ops)
    if slots[-1] == problem.whole_gaps[i].next_use_slot or not all(
        places[slot].is_known for slot in slots
    ):
        return Option(i, slots[0], slots[-1], ops)
    needed = {j for slot in slots for j in _needed_by(problem, i, slot, places[slot], large)}
    return Option(i, slots[0], slots[-1], ops, needed_by=frozenset(needed))


def _needed_by(
    problem: Problem, i: int, slot: int, place: _Place, large: frozenset[int]
) -> set[int]:
    """Gaps whose recipes need gap i's storage: large ones, or such as end at the slot.

    Or they need it for another gap that is neither, and so on.
    """
    found: set[int] = set()
    pending, seen = [i], {i}
    while pending:
        storage = problem.whole_gaps[pending.pop()].storage
        for j in place.needed_by.get(storage, ()):
            if j not in seen:
                seen.add(j)
                if j in large or problem.whole_gaps[j].next_use_slot == slot:
                    found.add(j)
                else:
                    pending.append(j)
    return found
