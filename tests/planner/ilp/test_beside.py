"""The ILP that is solved while the search goes on: its bound, its errors, its end."""

import threading
import time
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest

from planner.groundwork import Groundwork
from planner.ilp import beside
from planner.ilp.beside import BoundBeside
from planner.ilp.deadline import Deadline, SolverName
from planner.ilp.solver import NO_BOUND, StallBound, proven_bound, whole_bound
from planner.ilp.variables import Model
from planner.problem.problem import problem_of
from planner.solving import solve
from profiles.schema.errors import SolverError
from tests.support.commands import PATIENCE_S
from tests.support.planning.rebuilt import mixed_plan, one_of_each

THREAD = "swapplan-ilp"


def groundwork() -> Groundwork:
    """One in which the budget makes two of three storages leave."""
    profile = one_of_each()
    problem = problem_of(profile, budget_bytes=100, link=profile.link, min_size_bytes=1)
    return Groundwork(profile, problem, SolverName.HIGHS, Deadline.within(PATIENCE_S))


def begun(solver: SolverName = SolverName.HIGHS, cutoff_us: float = 1e9) -> BoundBeside:
    ground = groundwork()
    deadline = Deadline.within(PATIENCE_S)
    return BoundBeside(ground.problem, solver, deadline, cutoff_us=cutoff_us, offers=ground.placed)


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD)]


def endless(
    model: Model, solver: SolverName, deadline: Deadline, *, cutoff_us: float
) -> StallBound:
    """Proves nothing, until it is to end."""
    while not deadline.over:
        time.sleep(0.001)
    return NO_BOUND._replace(stall_us=1.0)


def failing(*_: Any, **__: Any) -> StallBound:
    raise SolverError("the solver failed.")


@pytest.mark.parametrize("solver", SolverName)
def test_the_bound_is_that_of_the_ilp(solver: SolverName) -> None:
    ground, patience = groundwork(), Deadline.within(PATIENCE_S)
    alone = whole_bound(ground.problem, solver, patience, offers=ground.placed)
    assert alone.proven
    assert alone.stall_us > 0
    found = begun(solver)
    assert found.by(patience) == alone
    assert not found.goes_on()
    found.end()
    assert not threads()


def test_what_is_not_known_yet_is_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "proven_bound", endless)
    found = begun()
    assert found.by(Deadline.within(0.01)) == NO_BOUND
    assert found.goes_on()
    assert found.by(Deadline(time.monotonic() + PATIENCE_S, stop=lambda: True)) == NO_BOUND
    found.end()
    assert found.by(Deadline.within(0.0)).stall_us == 1.0
    assert not threads()


def test_an_error_is_raised_where_the_bound_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "proven_bound", failing)
    found = begun()
    with pytest.raises(SolverError, match="failed"):
        found.by(Deadline.within(PATIENCE_S))
    found.end()


def test_cbc_is_not_begun_before_its_bound_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "proven_bound", failing)
    found = begun(SolverName.CBC)
    assert not threads()
    found.end()
    with pytest.raises(SolverError, match="failed"):
        found.by(Deadline.within(PATIENCE_S))


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_planning_leaves_no_thread_behind(
    monkeypatch: pytest.MonkeyPatch, *, is_interrupted: bool
) -> None:
    begun: list[Model] = []

    def noted(model: Model, *given: Any, **named: Any) -> StallBound:
        begun.append(model)
        return endless(model, *given, **named)

    def progress(stage: str, done: int, total: int) -> None:
        if begun and is_interrupted:
            raise KeyboardInterrupt

    monkeypatch.setattr(beside, "proven_bound", noted)
    plan = partial(solve, one_of_each(), budget_bytes=100, min_size_bytes=1, time_limit_s=0.5)
    with pytest.raises(KeyboardInterrupt) if is_interrupted else nullcontext():
        plan(progress=progress)
    assert begun
    assert not threads()


def test_a_plan_does_not_depend_on_how_soon_the_bound_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def late(*given: Any, **named: Any) -> StallBound:
        time.sleep(0.3)
        return proven_bound(*given, **named)

    soon = mixed_plan()
    monkeypatch.setattr(beside, "proven_bound", late)
    assert (mixed_plan().swaps, mixed_plan().rebuilds) == (soon.swaps, soon.rebuilds)
