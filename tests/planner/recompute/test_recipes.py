"""What is run again to fill a storage: each rule with a toy.

Toys have one op per slot, so op 3 is the op of slot 3; `x` is what is dropped after the op it was
last used by, and wanted again at the anchor of a later slot.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from planner.recompute.recipes import Recipe, StepEffects, recipe_for
from planner.recompute.rewriting import rebuildings, recomputed
from profiles.schema.checks import first_fault
from profiles.schema.profile import NEVER_AGAIN, LeftOut, OpTrait, StorageKind
from tests.support.planning.toys import ToyStorage, activation, gradient, resident, toy
from tests.support.recompute.drops import offered_gaps
from tests.support.recompute.replayed import check_replay

X, A, B = 0, 1, 2
PLAIN: tuple[OpTrait, ...] = ()


def step(
    *storages: ToyStorage,
    slots: int = 7,
    traits: dict[int, tuple[OpTrait, ...] | None] | None = None,
) -> StepEffects:
    """A step of ops that may all be run again, but for those of `traits`."""
    known = [(traits or {}).get(k, PLAIN) for k in range(slots)]
    return StepEffects(toy(*[10] * slots, storages=storages, traits=known))


def recipe(
    effects: StepEffects,
    slot: int = 6,
    *,
    wanted: Sequence[tuple[int, int]] = ((X, 3),),
    absent: dict[int, int] | None = None,
    max_ops: int = 99,
) -> Recipe | None:
    return recipe_for(effects, slot, wanted, absent or {}, max_ops)


def writing(storage: ToyStorage, *ops: int) -> ToyStorage:
    """The same storage, written by its first use and by some more."""
    return replace(storage, writes=frozenset({*storage.writes, *ops}))


def found(made: Recipe | None) -> tuple[set[int], dict[int, int], dict[int, set[int]]]:
    assert made is not None
    return made.ops, made.made, made.found


def test_the_op_that_made_it_runs_again_on_what_is_still_there() -> None:
    # Op 1 makes x of a, which op 5 reads too.
    effects = step(activation("x", 4, 1, 2, 6), activation("a", 4, 0, 1, 5, 6))
    assert found(recipe(effects)) == ({1}, {X: 3}, {A: {1}})


def test_every_write_up_to_its_last_use_runs_again() -> None:
    # Op 2 writes x in place and reads a for that; op 3 only reads x; op 6 would write it once more.
    effects = step(
        writing(activation("x", 4, 1, 2, 3, 6), 2, 6),
        activation("a", 4, 0, 2, 6),
        activation("b", 4, 3, 6),
    )
    assert found(recipe(effects, wanted=[(X, 4)])) == ({1, 2}, {X: 4}, {A: {2}})


def test_a_chain_of_writes_in_place_runs_whole() -> None:
    effects = step(writing(activation("x", 4, 0, 1, 2, 6), 1, 2))
    assert found(recipe(effects)) == ({0, 1, 2}, {X: 3}, {})


def test_an_input_that_is_gone_is_made_on_the_way() -> None:
    # a ends with op 2, before x is wanted; what it was made of is still there.
    effects = step(activation("x", 4, 2, 6), activation("a", 4, 1, 2), activation("b", 4, 0, 1, 6))
    assert found(recipe(effects)) == ({1, 2}, {X: 3, A: 2}, {B: {1}})


def test_an_input_that_was_written_since_is_made_as_it_was() -> None:
    # Op 3 adds to a, of which op 2 had made x: a is made anew, up to op 2 and no further.
    effects = step(activation("x", 4, 2, 6), writing(activation("a", 4, 0, 1, 2, 3, 6), 1, 3))
    assert found(recipe(effects)) == ({0, 1, 2}, {X: 3, A: 2}, {})


def test_an_input_that_is_written_after_the_rebuild_only_is_read_in_place() -> None:
    effects = step(activation("x", 4, 2, 6), writing(activation("a", 4, 0, 2, 6), 6))
    assert found(recipe(effects)) == ({2}, {X: 3}, {A: {2}})


def test_what_is_made_anew_is_read_anew_by_all_that_run() -> None:
    # Op 2 makes x of a and b. b was made of a earlier form of a, so a is made anew, and op 2, which
    # might have read it in place, reads what is made: up to op 2.
    effects = step(
        activation("x", 4, 2, 6),
        activation("a", 4, 0, 1, 2, 6),
        writing(activation("b", 4, 1, 2, 3), 3),
    )
    # a itself is unchanged, and only b is gone.
    assert found(recipe(effects)) == ({1, 2}, {X: 3, B: 2}, {A: {1, 2}})
    changed = step(
        activation("x", 4, 3, 6),
        writing(activation("a", 4, 0, 1, 2, 3, 6), 2),
        activation("b", 4, 1, 3),
    )
    assert found(recipe(changed, wanted=[(X, 4)])) == ({0, 1, 2, 3}, {X: 4, A: 3, B: 3}, {})


@pytest.mark.parametrize("names", [("b", "c"), ("c", "b")])
def test_the_order_in_which_inputs_are_looked_at_is_of_no_account(names: tuple[str, str]) -> None:
    # x is made of b and c, which are gone. c was made of a as op 0 had left it, b of what op 2 had
    # added. So a is made anew, for both of them up to op 3, although b might have found it there.
    made = {"b": activation("b", 4, 3, 4), "c": activation("c", 4, 1, 4)}
    effects = step(
        activation("x", 4, 4, 6),
        writing(activation("a", 4, 0, 1, 2, 3, 6), 2),
        *(made[name] for name in names),
    )
    ops, anew, in_place = found(recipe(effects, wanted=[(X, 5)]))
    assert (ops, anew[A], in_place) == ({0, 1, 2, 3, 4}, 3, {})


def test_an_input_that_is_dropped_is_made_whole_and_kept() -> None:
    # a is away when x is wanted. Op 2 read it after op 0 alone; op 3 has added to it since, and
    # that belongs to what is dropped.
    effects = step(activation("x", 4, 1, 2, 6), writing(activation("a", 4, 0, 1, 3, 6), 3), slots=7)
    made = recipe(effects, slot=5, absent={X: 3, A: 4})
    # But then op 1 would find what op 3 has left: ops run in order, so op 1 runs before op 3.
    assert found(made) == ({0, 1, 3}, {X: 3, A: 4}, {})
    gaps = {gap.storage: gap for gap in offered_gaps(effects) if gap.next_use_slot == 6}
    (rebuilding,) = rebuildings(effects, [gaps[X], gaps[A]]) or ()
    assert {gap.storage for gap in rebuilding.gaps} == {X, A}
    check_replay(effects.profile, recomputed(effects, (rebuilding,)).rebuilds)


def test_a_dropped_input_is_back_when_the_first_needs_it() -> None:
    # x is read by op 5 and a by op 6 only; making x makes a, so a is back one slot earlier.
    effects = step(activation("x", 4, 1, 5), activation("a", 4, 0, 1, 6))
    gaps = offered_gaps(effects)
    (rebuilding,) = rebuildings(effects, gaps) or ()
    assert (rebuilding.recipe.slot, rebuilding.recipe.ops) == (5, {0, 1})
    assert [gap.storage for gap in rebuilding.gaps] == [X, A]
    # Dropped alone, a is made at its own use.
    (alone,) = rebuildings(effects, [gap for gap in gaps if gap.storage == A]) or ()
    assert (alone.recipe.slot, alone.recipe.ops) == (6, {0})


def test_what_one_op_makes_is_made_together() -> None:
    # Op 1 makes x and a; a ends with op 2. Running op 1 makes it besides.
    effects = step(activation("x", 4, 1, 6), activation("a", 4, 1, 2, shown_at=3))
    assert found(recipe(effects)) == ({1}, {X: 3, A: 2}, {})
    # If both are dropped, one recipe fills both.
    both = step(activation("x", 4, 1, 5), activation("a", 4, 1, 6, shown_at=3))
    (rebuilding,) = rebuildings(both, offered_gaps(both)) or ()
    assert [gap.storage for gap in rebuilding.gaps] == [X, A]
    # But not if it cannot be made again.
    lost = step(
        activation("x", 4, 1, 6),
        replace(activation("a", 4, 1, 2), left_out=LeftOut.EXCHANGED, shown_at=3),
    )
    assert recipe(lost) is None


def test_running_statistics_are_no_input_and_no_obstacle() -> None:
    # Op 1 normalizes a and writes the buffer b, which op 4 writes again.
    buffer = resident("buffer:b", 4, 1, 4, kind=StorageKind.BUFFER, writes=[1, 4])
    storages = (activation("x", 4, 1, 6), activation("a", 4, 0, 1, 6), buffer)
    keeps = step(*storages, traits={1: (OpTrait.KEEPS_STATISTICS,)})
    assert found(recipe(keeps)) == ({1}, {X: 3}, {A: {1}})
    # An op that is not known to keep them only would write the buffer twice.
    assert recipe(step(*storages)) is None
    # One that reads them needs them as they were: in evaluation nothing writes them.
    read = replace(buffer, writes=frozenset())
    evaluates = step(*storages[:2], read, traits={1: (OpTrait.KEEPS_STATISTICS,)})
    assert found(recipe(evaluates)) == ({1}, {X: 3}, {A: {1}, B: {1}})
    written = replace(buffer, writes=frozenset({4}))
    assert recipe(step(*storages[:2], written, traits={1: (OpTrait.KEEPS_STATISTICS,)})) is None


@pytest.mark.parametrize("traits", [None, *((trait,) for trait in OpTrait)])
def test_some_ops_are_never_run_again(traits: tuple[OpTrait, ...] | None) -> None:
    storages = (activation("x", 4, 2, 6), activation("a", 4, 1, 2))
    # The op that makes it, and the one that makes its input.
    again = traits in ((OpTrait.RANDOM,), (OpTrait.KEEPS_STATISTICS,))
    for op in (1, 2):
        assert (recipe(step(*storages, traits={op: traits})) is not None) == again
    # What is not run again may be whatever it is.
    assert recipe(step(*storages, traits={3: traits})) is not None
    assert again == (traits is not None and not NEVER_AGAIN & set(traits))


def test_an_op_of_which_nothing_is_known_is_not_run_again() -> None:
    profile = toy(*[10] * 7, storages=[activation("x", 4, 1, 6)])
    assert recipe(StepEffects(profile)) is None
    assert offered_gaps(StepEffects(profile)) == []


def test_a_parameter_updated_before_the_rebuild_is_no_input() -> None:
    x = activation("x", 4, 1, 6)
    read = step(x, resident("parameter:a", 4, 1))
    assert found(recipe(read)) == ({1}, {X: 3}, {A: {1}})
    # An optimizer in the backward has updated it in slot 5; after the rebuild it may.
    assert recipe(step(x, resident("parameter:a", 4, 1, 5, writes=[5]))) is None
    assert recipe(step(x, resident("parameter:a", 4, 1, 6, writes=[6]))) is not None


@pytest.mark.parametrize(
    ("slot", "refused"), [(0, False), (1, True), (3, True), (6, True), (7, False)]
)
def test_an_input_open_to_writing_meanwhile_is_no_input(slot: int, refused: bool) -> None:
    # From the slot in which op 1 read it to the anchor of slot 6: either may write it in all of it.
    a = replace(resident("parameter:a", 4, 1), opened_slots=(slot,))
    assert (recipe(step(activation("x", 4, 1, 6), a, slots=8)) is None) == refused
    # What is only read there is as it was.
    a = replace(resident("parameter:a", 4, 1), touched_slots=(slot,))
    assert recipe(step(activation("x", 4, 1, 6), a, slots=8)) is not None


def test_what_was_open_to_writing_holds_more_than_ops_wrote() -> None:
    opened = replace(activation("x", 4, 1, 6), opened_slots=(2,))
    assert recipe(step(opened)) is None
    assert recipe(step(replace(opened, opened_slots=(), touched_slots=(2,)))) is not None


@pytest.mark.parametrize("left_out", LeftOut)
def test_what_belongs_to_others_is_not_made_by_ops(left_out: LeftOut) -> None:
    # a is gone when x is wanted, and was made by op 1, as far as can be seen.
    a = replace(activation("a", 4, 1, 2), left_out=left_out, shown_at=None)
    if left_out is not LeftOut.NEVER_SHOWN:
        a = replace(a, shown_at=2)
    made = recipe(step(replace(activation("x", 4, 2, 6)), a))
    assert (made is not None) == (left_out is LeftOut.NEVER_SHOWN)


@pytest.mark.parametrize("kind", StorageKind)
def test_only_some_kinds_are_made_by_ops(kind: StorageKind) -> None:
    made = recipe(step(activation("x", 4, 2, 6), replace(activation("a", 4, 1, 2), kind=kind)))
    by_the_step = {StorageKind.ACTIVATION, StorageKind.TEMPORARY, StorageKind.GRADIENT}
    assert (made is not None) == (kind in by_the_step)


def test_what_no_op_has_made_is_not_made_again() -> None:
    # a begins with op 1, which only reads it; or it is there before, and op 1 writes into it.
    x = activation("x", 4, 2, 6)
    assert recipe(step(x, replace(activation("a", 4, 1, 2), writes=frozenset()))) is None
    assert recipe(step(x, replace(activation("a", 4, 1, 2), writes=frozenset({2})))) is None
    assert recipe(step(x, replace(activation("a", 4, 1, 2), early_slots=1))) is None
    assert recipe(step(x, replace(resident("input", 4, 1, 2, writes=[1]), released_op=2))) is None


def test_a_gradient_that_is_gone_is_made_again_as_any_other() -> None:
    made = step(activation("x", 4, 3, 6), replace(gradient("grad:a", 4, 1, 3), released_op=3))
    assert found(recipe(made, wanted=[(X, 4)])) == ({1, 3}, {X: 4, A: 3}, {})
    # Such a step is a step as any other.
    found_again = rebuildings(made, [gap for gap in offered_gaps(made) if gap.storage == X]) or ()
    assert first_fault(recomputed(made, found_again).profile) is None


def test_a_recipe_has_no_more_ops_than_it_may() -> None:
    effects = step(writing(activation("x", 4, 0, 1, 2, 6), 1, 2))
    assert recipe(effects, max_ops=3) is not None
    assert recipe(effects, max_ops=2) is None
    gaps = offered_gaps(effects)
    assert rebuildings(effects, gaps, max_ops=3) is not None
    assert rebuildings(effects, gaps, max_ops=2) is None


def test_nothing_is_run_again_at_the_last_anchor() -> None:
    # x is alive when the step ends: its last gap ends there, where no op runs.
    lives_on = step(replace(activation("x", 4, 1, 3), released_op=None))
    assert [(gap.first_slot, gap.next_use_slot) for gap in offered_gaps(lives_on)] == [(2, 3)]


def test_what_a_recipe_reads_is_not_dropped_at_that_anchor() -> None:
    # x is made of a at the anchor of slot 4, where the gap of a begins: a leaves at slot 5.
    effects = step(activation("x", 4, 1, 4), activation("a", 4, 0, 1, 3, 6))
    one, other = rebuildings(effects, offered_gaps(effects)[-2:]) or ()
    assert [(gap.storage, gap.first_slot) for gap in one.gaps] == [(X, 2)]
    assert (one.recipe.ops, one.recipe.found) == ({1}, {A: {1}})
    assert [(gap.storage, gap.first_slot, gap.next_use_slot) for gap in other.gaps] == [(A, 5, 6)]
    check_replay(effects.profile, recomputed(effects, (one, other)).rebuilds)
    # If it ends there, a is not dropped at all.
    short = step(activation("x", 4, 1, 4), activation("a", 4, 0, 1, 3, 5))
    gaps = [gap for gap in offered_gaps(short) if gap.first_slot in (2, 4)]
    (alone,) = (
        rebuildings(short, [gap for gap in gaps if gap.storage == X or gap.first_slot == 4]) or ()
    )
    assert [gap.storage for gap in alone.gaps] == [X]
