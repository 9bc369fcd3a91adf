"""What is dropped comes back to the same bytes, or is not dropped."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch.nn import functional

from planner.plan.plan import Drop, Rebuild, RecipeOp
from runtime.lanes.lane import CopyLane
from runtime.recompute.recipe import LiveRecipe
from runtime.recompute.recipes import LostStorageError
from runtime.storage import hand_over
from runtime.storage.residency import Residency, TrackedStorage, UnmovableError
from tests.runtime.recompute.one_recipe import STORAGE, OneRecipe, recipe_of
from tests.support.training.interrupting import Tracer

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))

ROWS = torch.tensor([3, 1])
NO_LANE = cast(CopyLane, None)
"""Nothing is swapped here."""


def normalized() -> torch.Tensor:
    mean, var = torch.zeros(8), torch.ones(8)
    return torch.relu_(functional.batch_norm(X, mean, var, training=True))


def dropped_out() -> torch.Tensor:
    return functional.dropout(X, 0.5)


def masked() -> torch.Tensor:
    mask = torch.empty_like(X).bernoulli_(0.7).div_(0.7)
    return X * mask


def filled() -> torch.Tensor:
    made = torch.zeros_like(X)
    made.add_(torch.full_like(X, 0.25)).mul_(X.new_ones(8))
    made[2:4].fill_(3.0)
    return made


def softmax_of_cast() -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return torch.mm(X, X.T).float().softmax(-1)


def gathered() -> torch.Tensor:
    rows = X.index_select(0, ROWS)
    return torch.cat([rows, rows.t()[:4].t().repeat(1, 2)])


def split() -> torch.Tensor:
    low, high = torch.sort(X, dim=0)[0].chunk(2)
    return torch.add(low, high, alpha=0.5)


def out_of_place() -> torch.Tensor:
    return torch.mul(X, 2.0, out=torch.empty(6, 8))


FUNCTIONS = [
    *(normalized, dropped_out, masked, filled, softmax_of_cast, gathered, split, out_of_place),
]


@pytest.mark.parametrize("run", FUNCTIONS, ids=lambda run: run.__name__)
def test_what_a_function_made_comes_back_bit_by_bit(run: Callable[[], torch.Tensor]) -> None:
    training = OneRecipe(recipe_of(run))
    for seed in range(3):
        torch.manual_seed(seed)
        with training.step():
            made = run()
            expected, version = made.clone(), made._version
            view = made.view(-1)[3:]
            torch.rand(3)
            before = torch.random.get_rng_state()
            (tracked,) = training.drop(made)
            assert made.untyped_storage().nbytes() == 0
            training.rebuild()
            assert torch.equal(torch.random.get_rng_state(), before)
            assert tracked.residency is Residency.RESIDENT
        assert torch.equal(made, expected)
        assert torch.equal(view, expected.view(-1)[3:])
        assert made._version == version
    assert not training.divergences
    assert not training.misses


def test_running_statistics_are_not_updated_twice() -> None:
    mean, var = torch.zeros(8), torch.ones(8)

    def run() -> torch.Tensor:
        return functional.batch_norm(X, mean, var, training=True)

    training = OneRecipe(recipe_of(run))
    with training.step():
        made = run()
        kept = mean.clone(), var.clone()
        training.drop(made)
        training.rebuild()
    assert torch.equal(mean, kept[0])
    assert torch.equal(var, kept[1])


def test_numbers_among_the_arguments_are_those_of_the_step() -> None:
    weight = 1.0

    def run() -> torch.Tensor:
        return torch.add(X, X, alpha=weight) * weight

    training = OneRecipe(recipe_of(run))
    for step in range(4):
        weight = 0.5 * step
        with training.step():
            made = run()
            expected = made.clone()
            training.drop(made)
            training.rebuild()
        assert torch.equal(made, expected)


def test_several_results_come_back_together() -> None:
    def run() -> tuple[torch.Tensor, ...]:
        return torch.native_layer_norm(X, (8,), None, None, 1e-5)

    training = OneRecipe(recipe_of(run, drops=3))
    with training.step():
        made = run()
        expected = [tensor.clone() for tensor in made]
        training.drop(*made)
        for number in range(3):
            training.rebuild(number)
        assert training.recipes.ops_run_again == 1
        assert training.recipes.rebuilt_bytes == sum(tensor.nbytes for tensor in made)
    for tensor, wanted in zip(made, expected, strict=True):
        assert torch.equal(tensor, wanted)


def test_torch_without_the_swap_of_memory_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand_over, "_CAN_SWAP", False)
    test_what_a_function_made_comes_back_bit_by_bit(normalized)


def test_nothing_is_seen_of_what_runs_again() -> None:
    """In inference mode, under autocast, with a default device and modes of others."""
    training = OneRecipe(recipe_of(softmax_of_cast))
    seen: list[object] = []

    class Others(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            seen.append(func)
            return func(*args, **(kwargs or {}))

    hooks = torch.autograd.graph.saved_tensors_hooks(seen.append, lambda packed: packed)
    with training.step():
        made = softmax_of_cast()
        expected = made.clone()
        (tracked,) = training.drop(made)
        with (
            hooks,
            torch.autocast("cpu", torch.float16),
            torch.inference_mode(),
            torch.device("meta"),
            Others(),
        ):
            del seen[:]
            training.rebuild()
            assert seen == []
        assert tracked.residency is Residency.RESIDENT
        assert torch.is_grad_enabled()
    assert torch.equal(made, expected)


def product() -> torch.Tensor:
    return torch.sigmoid(X * 2.0)


def refused(run: Callable[[], torch.Tensor], **settings: Any) -> str:
    """Why what a function makes is not dropped."""
    training = OneRecipe(recipe_of(product, **settings))
    with training.step():
        made = run()
        training.recipes.capture.open_slot(2)
        expected = made.clone()
        with pytest.raises(UnmovableError) as raised:
            training.drop(made)
    assert torch.equal(made, expected)
    return str(raised.value)


def test_another_op_than_planned_is_not_run_again() -> None:
    assert "aten.tanh.default ran where aten.sigmoid" in refused(lambda: torch.tanh(X * 2.0))


def test_an_op_that_did_not_run_is_missed() -> None:
    assert "did not run as planned" in refused(lambda: X * 2.0)


def test_an_op_more_shifts_the_others() -> None:
    assert "ran where" in refused(lambda: torch.sigmoid((X + 1.0) * 2.0))


def test_a_write_by_an_op_outside_the_recipe_means_that_nothing_is_dropped() -> None:
    assert "wrote it that is not in its recipe" in refused(lambda: product().mul_(2.0))


def test_a_write_between_two_ops_of_the_recipe_is_seen() -> None:
    """Without this rule the second op would find other numbers when it runs again."""

    def run() -> torch.Tensor:
        first = X * 2.0
        first.data.view(-1)[1:].add_(1.0)
        return torch.sigmoid(first)

    training = OneRecipe(
        *(recipe.model_copy(update={"ops": (recipe.ops[0], recipe.ops[-1])})
          for recipe in [recipe_of(run)])
    )  # fmt: skip
    with training.step():
        made = run()
        with pytest.raises(UnmovableError, match="is not in its recipe wrote what"):
            training.drop(made)


def test_a_write_in_place_of_what_the_recipe_has_not_made_is_refused() -> None:
    made = torch.ones(4)
    training = OneRecipe(recipe_of(lambda: made.add_(1.0)))
    with training.step():
        made.add_(1.0)
        with pytest.raises(UnmovableError, match="writes what its recipe has not made"):
            training.drop(made)


@pytest.mark.parametrize("write", [lambda x: x.add_(1.0), lambda x: x.data.view(-1)[2:].zero_()])
def test_what_is_read_in_place_must_not_be_written_before_the_drop(
    write: Callable[[torch.Tensor], object],
) -> None:
    x = X.clone()
    training = OneRecipe(recipe_of(lambda: torch.sigmoid(x)))
    with training.step():
        made = torch.sigmoid(x)
        write(x)
        with pytest.raises(UnmovableError, match="was freed or written"):
            training.drop(made)


def test_what_is_read_in_place_must_not_be_freed_before_the_drop() -> None:
    training = OneRecipe(recipe_of(product, only="sigmoid"))
    with training.step():
        made = product()
        with pytest.raises(UnmovableError, match="was freed or written"):
            training.drop(made)


def test_before_what_is_read_in_place_is_written_all_comes_back() -> None:
    x = X.clone()
    training = OneRecipe(recipe_of(lambda: torch.sigmoid(x)))
    with training.step():
        made = torch.sigmoid(x)
        expected = made.clone()
        (tracked,) = training.drop(made)
        x.data[2:].zero_()
        assert tracked.residency is Residency.RESIDENT
    assert "writes a storage from which the plan rebuilds another" in training.divergences[0]
    assert torch.equal(made, expected)


def test_before_what_is_dropped_is_touched_all_comes_back() -> None:
    training = OneRecipe(recipe_of(product))
    with training.step():
        made = product()
        expected = made.clone()
        training.drop(made)
        assert torch.equal(made * 1.0, expected)
    assert len(training.misses) == 1


def test_what_is_read_in_place_is_held_until_the_rebuild() -> None:
    training = OneRecipe(recipe_of(lambda: torch.sigmoid(X.clone()), only="sigmoid"))
    with training.step():
        x = X.clone()
        made = torch.sigmoid(x)
        expected = made.clone()
        training.drop(made)
        del x
        training.rebuild()
    assert torch.equal(made, expected)


@pytest.mark.parametrize("elsewhere", [lambda x: x.data.t(), lambda x: torch.ones_like(x[:6])])
def test_what_is_read_in_place_is_read_as_it_was(
    elsewhere: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Its tensor shows the bytes in another order by then, or others: autograd counts neither."""
    x = X[:, :6].clone()
    training = OneRecipe(recipe_of(lambda: torch.sigmoid(x)))
    with training.step():
        made = torch.sigmoid(x)
        expected = made.clone()
        training.drop(made)
        x.data = elsewhere(x)
        training.rebuild()
    assert torch.equal(made, expected)


def test_what_an_op_of_the_recipe_makes_is_read_as_it_was() -> None:
    """Through views, whose bytes are in another order than those of what was made."""

    def run() -> torch.Tensor:
        made = X[:, :6] * 2.0
        return torch.mm(made.t(), made[1:4].t().contiguous()) + made.view(-1)[3:6]

    training = OneRecipe(recipe_of(run))
    with training.step():
        made = run()
        expected = made.clone()
        training.drop(made)
        training.rebuild()
    assert torch.equal(made, expected)


def test_in_a_first_step_ops_are_found_by_what_they_have_made() -> None:
    """Others of the same name, before and between them, are none of the recipe's."""
    training = OneRecipe(recipe_of(product))
    with training.step(is_first=True):
        torch.sigmoid(X - 1.0).mul_(3.0)
        doubled = X * 2.0
        torch.sigmoid(X * 5.0)
        made = torch.sigmoid(doubled)
        torch.sigmoid(doubled * 7.0)
        expected = made.clone()
        training.drop(made)
        training.rebuild()
        assert training.recipes.ops_run_again == 2
    assert torch.equal(made, expected)


def test_in_a_first_step_several_storages_are_found_one_after_the_other() -> None:
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.sigmoid(X * 2.0), torch.sigmoid(X * 3.0)

    training = OneRecipe(recipe_of(run, drops=2))
    with training.step(is_first=True):
        torch.sigmoid(X * 4.0)
        made = run()
        expected = [tensor.clone() for tensor in made]
        training.drop(*made)
        training.rebuild()
        assert training.recipes.ops_run_again == 4
    assert [*map(torch.equal, made, expected)] == [True, True]


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda: product().mul_(2.0), "wrote it that is not in its recipe"),
        (lambda: torch.tanh(X * 2.0), "no captured op has made it"),
        (lambda: torch.sigmoid(torch.tanh(X)), "was freed or written"),
    ],
)
def test_in_a_first_step_other_ops_than_planned_are_not_run_again(
    run: Callable[[], torch.Tensor], why: str
) -> None:
    training = OneRecipe(recipe_of(product))
    with training.step(is_first=True):
        made = run()
        with pytest.raises(UnmovableError, match=why):
            training.drop(made)


def test_in_a_first_step_a_write_too_many_is_seen() -> None:
    """The recipe has one such op of the two: with the wrong one, or with both, numbers differ."""

    def run(times: int) -> torch.Tensor:
        made = torch.sigmoid(X)
        for _ in range(times):
            made.mul_(2.0)
        return made

    training = OneRecipe(recipe_of(lambda: run(1)))
    with training.step(is_first=True):
        made = run(2)
        with pytest.raises(UnmovableError, match="is not in its recipe wrote what"):
            training.drop(made)


def test_what_is_read_in_place_must_not_be_on_its_way() -> None:
    """Its memory is there already, its bytes are not: the rebuild would find other numbers."""
    x = X.clone()
    training = OneRecipe(recipe_of(lambda: torch.sigmoid(x)))
    with training.step():
        made = torch.sigmoid(x)
        expected = made.clone()
        training.drop(made)
        returning = TrackedStorage(x.untyped_storage(), training.accountant)
        training.accountant.guarded.forbid(returning)
        with pytest.raises(UnmovableError, match="what its recipe reads is away"):
            training.rebuild()
        training.accountant.guarded.allow(returning)
    assert torch.equal(made, expected)


def test_an_op_that_makes_another_layout_is_an_error() -> None:
    """The bytes would be as many, and mean something else."""
    layouts = itertools.cycle([torch.contiguous_format, torch.channels_last])

    @torch.library.custom_op("swapplan_test::laid_out", mutates_args=())
    def laid_out(x: torch.Tensor) -> torch.Tensor:
        return x.clone(memory_format=next(layouts))

    image = torch.rand(2, 3, 4, 4)
    training = OneRecipe(recipe_of(lambda: torch.ops.swapplan_test.laid_out(image)))
    next(layouts)
    with training.step():
        made = torch.ops.swapplan_test.laid_out(image)
        expected = made.clone()
        training.drop(made)
        with pytest.raises(UnmovableError, match="makes other tensors than it did"):
            training.rebuild()
        training.recipes.bring_back()
    assert torch.equal(made, expected)


def test_a_recipe_does_not_fill_what_another_has_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt has kept the first from letting go, and its storage was written since."""
    first = recipe_of(lambda: torch.sigmoid(X))
    ops = (*first.ops, RecipeOp(op=9, name="aten.mul_.Tensor", slot=4, position=0))
    second = Rebuild(slot=6, ops=ops, drops=(Drop(storage=STORAGE, slot=5),))
    training = OneRecipe(first, second)
    with training.step():
        made = torch.sigmoid(X)
        (tracked,) = training.drop(made)
        with monkeypatch.context() as patch:
            patch.setattr(LiveRecipe, "let_go", lambda _: None)
            training.rebuild()
        training.recipes.capture.open_slot(4)
        made.mul_(3.0)
        training.recipes.capture.open_slot(5)
        expected = made.clone()
        training.recipes.drop(STORAGE, tracked, 5)
        training.recipes.bring_back()
    assert torch.equal(made, expected)


def test_what_was_freed_is_not_rebuilt() -> None:
    training = OneRecipe(recipe_of(product))
    with training.step():
        made = product()
        training.drop(made)
        del made
        training.rebuild()
    assert training.recipes.ops_run_again == 0


def test_only_the_ops_for_what_is_still_there_run_again() -> None:
    def run() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.sigmoid(X), torch.tanh(X).mul_(2.0)

    training = OneRecipe(recipe_of(run, drops=2))
    with training.step():
        first, second = run()
        expected = second.clone()
        training.drop(first, second)
        del first
        training.rebuild()
        assert training.recipes.ops_run_again == 2
    assert torch.equal(second, expected)


def test_want_of_memory_leaves_it_dropped_and_it_may_be_tried_again() -> None:
    training = OneRecipe(recipe_of(product))
    with training.step():
        made = product()
        expected = made.clone()
        (tracked,) = training.drop(made)
        training.accountant.budget_bytes = training.accountant.memory.live_bytes + 8
        with pytest.raises(torch.OutOfMemoryError):
            training.rebuild()
        assert tracked.residency is Residency.DROPPED
        training.accountant.lift()
        training.recipes.bring_back()
    assert torch.equal(made, expected)


def test_a_write_that_nobody_sees_is_no_wrong_number() -> None:
    """Autograd counts it, in a thread that no mode looks at."""
    x = X.clone()
    training = OneRecipe(recipe_of(lambda: torch.sigmoid(x)))
    with training.step():
        made = torch.sigmoid(x)
        training.drop(made)
        with torch._C._DisableTorchDispatch():
            x.add_(1.0)
        with pytest.raises(UnmovableError, match="was freed or written"):
            training.rebuild()
        with pytest.raises(LostStorageError, match="Their numbers are lost"):
            training.recipes.bring_back()
        del made


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda: X[X > 0.0] * 2.0, "shape depends on data"),
        (lambda: torch.view_as_complex(X.view(6, 4, 2)).conj() * 2.0, "not plain"),
    ],
)
def test_some_ops_are_never_run_again(run: Callable[[], torch.Tensor], why: str) -> None:
    training = OneRecipe(recipe_of(run))
    with training.step():
        made = run()
        with pytest.raises(UnmovableError, match=why):
            training.drop(made)


def test_every_instruction_of_a_drop_and_a_rebuild_can_be_the_last() -> None:
    """One storage, made by random ops; every few instructions there is an interrupt."""
    training = OneRecipe(recipe_of(dropped_out))
    for act in (_drop, _drop_and_rebuild):
        at, over = 0, False
        while not over:
            at += 7
            torch.manual_seed(5)
            tracer = Tracer([at])
            with training.step():
                made = dropped_out()
                training.recipes.capture.open_slot(2)
                with torch._C._DisableTorchDispatch():
                    expected = made.clone()
                state = torch.random.get_rng_state()
                tracked = TrackedStorage(made.untyped_storage(), training.accountant)
                with contextlib.suppress(KeyboardInterrupt), tracer.on():
                    act(training, tracked)
                training.recipes.bring_back()
                tracked.restore(NO_LANE)
                assert torch.equal(torch.random.get_rng_state(), state), tracer.raised
                assert torch.equal(made, expected), tracer.raised
            assert not training.misses, tracer.raised
            over = not tracer.raised
        assert at > 50


def _drop(training: OneRecipe, tracked: TrackedStorage) -> None:
    training.recipes.drop(STORAGE, tracked, 2)


def _drop_and_rebuild(training: OneRecipe, tracked: TrackedStorage) -> None:
    training.recipes.drop(STORAGE, tracked, 2)
    training.rebuild()


def test_every_instruction_of_noting_an_op_can_be_the_last() -> None:
    """What an interrupt keeps from being noted is not dropped, or comes back all the same."""
    training = OneRecipe(recipe_of(dropped_out))
    at, dropped, over = 0, 0, False
    while not over:
        at += 7
        tracer = Tracer([at])
        with training.step():
            made = X
            with contextlib.suppress(KeyboardInterrupt), tracer.on():
                made = dropped_out()
            if made is X:
                # As a step that catches it and goes on.
                made = dropped_out()
            expected = made.clone()
            with contextlib.suppress(UnmovableError):
                training.drop(made)
                dropped += 1
                training.rebuild()
            assert torch.equal(made, expected), tracer.raised
        over = not tracer.raised
    assert at > 300
    assert dropped < at
