"""Checkpointing switched off: every way to have it, the same numbers, and nothing left behind."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import ModuleType
from typing import Any, NoReturn

import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.utils.checkpoint import checkpoint

from profiles.hooks.checkpointing import (
    COMPOSABLE,
    FUNCTION,
    GENERATOR,
    Checkpointing,
    without_checkpointing,
)
from profiles.schema.errors import WorkloadError
from tests.support.checkpointed import BLOCKS, KINDS, WAYS, Blocks, workload
from tests.support.training.recorded import assert_same, snapshot

STEPS = 3
MODULE = torch.utils.checkpoint


def attributes() -> tuple[object, ...]:
    """What is replaced while checkpointing is off."""
    composable = sys.modules[COMPOSABLE]
    return getattr(MODULE, GENERATOR), getattr(MODULE, FUNCTION), getattr(composable, GENERATOR)


@pytest.fixture(autouse=True)
def nothing_stays_replaced() -> Iterator[None]:
    before = attributes()
    yield
    assert attributes() == before


def trained(
    make: Callable[..., Blocks], around: AbstractContextManager[object], **how: Any
) -> tuple[int, list[torch.Tensor], dict[str, torch.Tensor]]:
    """How often blocks were run, the losses, and all numbers at the end."""
    it = workload(make, **how)
    losses = []
    for _ in range(STEPS):
        with around:
            losses.append(it.step())
    assert isinstance(it.model, Blocks)
    return it.model.runs, losses, snapshot(it) | {"generator": torch.get_rng_state()}


HOW: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"dropout": 0.5},
    "autocast": {"autocast": True},
    "both": {"dropout": 0.5, "autocast": True},
}


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("way", WAYS)
def test_blocks_are_run_once_and_no_number_changes(way: str, how: str) -> None:
    runs, losses, numbers = trained(WAYS[way], nullcontext(), **HOW[how])
    runs_off, losses_off, numbers_off = trained(WAYS[way], without_checkpointing(), **HOW[how])
    assert runs > runs_off == BLOCKS * STEPS
    assert all(torch.equal(a, b) for a, b in zip(losses, losses_off, strict=True))
    assert_same(numbers, numbers_off)


@pytest.mark.parametrize("kind", KINDS)
def test_kept_is_as_if_it_were_not_there(kind: str) -> None:
    runs, *_ = trained(KINDS[kind], nullcontext())
    assert trained(KINDS[kind], Checkpointing(kept=True))[0] == runs == 2 * BLOCKS * STEPS


def test_context_functions_are_not_called() -> None:
    called = []

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        called.append(1)
        return nullcontext(), nullcontext()

    selective = partial(checkpoint, use_reentrant=False, context_fn=contexts)
    trained(partial(Blocks, selective), without_checkpointing())
    assert called == []
    trained(partial(Blocks, selective), nullcontext())
    assert called


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_a_part_raises_comes_out_and_nothing_stays(reentrant: bool) -> None:
    def fails(rows: torch.Tensor) -> NoReturn:
        raise LookupError("in the part")

    rows = torch.ones(2, requires_grad=True)
    with pytest.raises(LookupError, match="in the part"), without_checkpointing():
        checkpoint(fails, rows, use_reentrant=reentrant)


def test_arguments_by_name_reach_the_part() -> None:
    rows = torch.ones(2, requires_grad=True)
    with without_checkpointing():
        found = checkpoint(lambda x, *, times: x * times, rows, times=3, use_reentrant=False)
    assert torch.equal(found, 3 * rows)


def test_a_reentrant_part_that_trains_nothing_still_does_not() -> None:
    """None of its arguments requires a gradient, and so torch records none."""
    part, rows = nn.Linear(2, 2), torch.ones(1, 2)
    with without_checkpointing():
        with pytest.warns(UserWarning, match="None of the inputs have requires_grad=True"):
            assert not checkpoint(part, rows, use_reentrant=True).requires_grad
        assert checkpoint(part, rows, use_reentrant=False).requires_grad


def calls_in_backward(step: Callable[[Callable[..., Any]], None]) -> int:
    """How often a checkpointed part is run again."""
    runs: list[int] = []

    def part(rows: torch.Tensor) -> torch.Tensor:
        runs.append(1)
        return rows.sin()

    step(part)
    return len(runs) - 1


def test_other_threads_keep_it() -> None:
    def in_a_thread(part: Callable[..., Any]) -> None:
        def run() -> None:
            rows = torch.ones(2, requires_grad=True)
            checkpoint(part, rows, use_reentrant=True).sum().backward()

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    with without_checkpointing():
        assert calls_in_backward(in_a_thread) == 1


def step_of(part: Callable[..., Any]) -> None:
    rows = torch.ones(2, requires_grad=True)
    checkpoint(part, rows, use_reentrant=False).sum().backward()


def test_it_stays_off_until_the_last_one_is_left_and_leaving_may_be_repeated() -> None:
    one, other = without_checkpointing(), without_checkpointing()
    with one:
        with other:
            assert calls_in_backward(step_of) == 0
        other.leave()
        assert calls_in_backward(step_of) == 0
        one.leave()
        assert calls_in_backward(step_of) == 1
    with one:
        assert calls_in_backward(step_of) == 0
    assert calls_in_backward(step_of) == 1


def test_what_was_bound_while_it_was_off_checkpoints_afterwards() -> None:
    """As a module has it that was imported in a step."""
    original = getattr(MODULE, GENERATOR)
    with without_checkpointing():
        bound = getattr(MODULE, GENERATOR)
    assert bound is not original
    setattr(MODULE, GENERATOR, bound)
    try:
        assert calls_in_backward(step_of) == 1
        with without_checkpointing():
            assert calls_in_backward(step_of) == 0
    finally:
        setattr(MODULE, GENERATOR, original)


def test_what_somebody_else_puts_there_meanwhile_stays() -> None:
    original, theirs = getattr(MODULE, FUNCTION), object()
    try:
        with without_checkpointing():
            setattr(MODULE, FUNCTION, theirs)
        assert getattr(MODULE, FUNCTION) is theirs
    finally:
        setattr(MODULE, FUNCTION, original)


def test_an_interrupt_on_the_way_in_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = attributes()

    class Interrupting(ModuleType):
        def __setattr__(self, name: str, value: object) -> None:
            super().__setattr__(name, value)
            if value is not before[2]:
                raise KeyboardInterrupt

    composable = sys.modules[COMPOSABLE]
    stand_in = Interrupting(COMPOSABLE)
    vars(stand_in).update(vars(composable))
    monkeypatch.setitem(sys.modules, COMPOSABLE, stand_in)
    with pytest.raises(KeyboardInterrupt), without_checkpointing():
        pytest.fail("it was entered")
    assert attributes() == before


@pytest.mark.parametrize("name", [GENERATOR, FUNCTION])
def test_a_torch_without_the_names_is_refused_in_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(MODULE, name)
    with pytest.raises(WorkloadError, match=rf"cannot be switched off .*\.{name}") as refused:
        without_checkpointing()
    assert "\n" not in str(refused.value)
    Checkpointing(kept=True)
    # Before it is looked whether anything stays replaced.
    monkeypatch.undo()


def normalized_twice(around: AbstractContextManager[object]) -> torch.Tensor:
    part = nn.BatchNorm1d(2)
    rows = torch.ones(4, 2, requires_grad=True)
    with around:
        checkpoint(part, rows, use_reentrant=False).sum().backward()
    return part.num_batches_tracked  # type: ignore[return-value]


def test_statistics_of_a_part_are_written_once() -> None:
    """The one number that changes in every such model; see [Note: the same numbers]."""
    assert normalized_twice(nullcontext()) == 2
    assert normalized_twice(without_checkpointing()) == 1
