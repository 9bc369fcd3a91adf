"""The ILP's rows, its bounds on toys, and what a solver's answer is worth."""

from collections.abc import Callable
from typing import Any

import pulp
import pytest

from planner.ilp.deadline import Deadline, SolverName
from planner.ilp.model import build
from planner.ilp.solver import Outcome, solve_model
from planner.ilp.variables import Goal
from profiles.schema.errors import SolverError
from profiles.schema.profile import Profile
from tests.support.commands import PATIENCE_S
from tests.support.planning.one_swap import one_swap, problem_of
from tests.support.planning.toys import activation, fixed, toy


def patience() -> Deadline:
    """More than any of these models takes; from now on, as the suite itself may take longer."""
    return Deadline.within(PATIENCE_S)


def bound_us(profile: Profile, budget_bytes: int, solver: SolverName) -> float:
    model = build(problem_of(profile, budget_bytes), Goal.STALL)
    solved = solve_model(model, solver, patience())
    assert solved.outcome is Outcome.OPTIMAL
    return float(pulp.value(model.program.objective)) * model.units.time_us


@pytest.mark.parametrize("solver", SolverName)
def test_the_bound_of_a_single_swap_is_its_stall(solver: SolverName) -> None:
    # Slot 1 hides 4 of the 6 us out, slot 3 hides 5 of the 6 us back: 2 + 1.
    x, w = activation("pack:x", 6, 0, 4), fixed("w", 6, 2)
    profile = toy(10, 4, 10, 5, 10, storages=[x, w])
    assert bound_us(profile, 6, solver) == pytest.approx(3, abs=1e-5)
    # One byte over the budget still takes the whole of x.
    assert bound_us(profile, 11, solver) == pytest.approx(3, abs=1e-5)


@pytest.mark.parametrize("solver", SolverName)
def test_the_bound_of_two_nested_gaps(solver: SolverName) -> None:
    # The toy of `test_nested_gaps_compete_for_the_way_back`, whose least stall is 5.
    x, y, w = activation("pack:x", 4, 0, 6), activation("pack:y", 4, 1, 5), fixed("w", 8, 3)
    profile = toy(1, 4, 4, 1, 2, 1, 1, storages=[x, y, w])
    assert bound_us(profile, 8, solver) == pytest.approx(5, abs=1e-5)


def test_every_row_bears_its_number_and_no_other() -> None:
    # x idles for 10 us and its copies take 12, so every kind of row is there.
    profile = toy(10, 4, 3, 3, 10, storages=[activation("x", 6, 0, 4), fixed("w", 6, 2)])
    model = build(problem_of(profile, 6, host_bytes=6), Goal.CHOICE)
    numbers = {str(row.name).split("_")[0] for row in model.program.constraints()}
    # Without parts of gaps there is no row (9).
    assert numbers == {f"c{n}" for n in (*range(13), 24)} - {"c9"}


@pytest.mark.parametrize("solver", SolverName)
def test_an_impossible_model_differs_from_an_unsolved_one(solver: SolverName) -> None:
    model = build(problem_of(one_swap(), 5), Goal.CHOICE)
    assert solve_model(model, solver, patience()).outcome is Outcome.INFEASIBLE


def test_fractions_in_binaries_are_never_taken_for_a_solution(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build(problem_of(one_swap(), 6), Goal.CHOICE)

    def stop(status: int) -> Callable[[Any], int]:
        def give_back(_: Any) -> int:
            for variable in model.program.variables():
                variable.varValue = 0.5
            model.program.sol_status = status
            return pulp.LpStatusOptimal

        return give_back

    monkeypatch.setattr(model.program, "solve", stop(pulp.LpSolutionIntegerFeasible))
    stopped = solve_model(model, SolverName.HIGHS, patience())
    assert (stopped.outcome, stopped.chosen) == (Outcome.NOTHING, frozenset())
    monkeypatch.setattr(model.program, "solve", stop(pulp.LpSolutionOptimal))
    with pytest.raises(SolverError, match="fractions"):
        solve_model(model, SolverName.HIGHS, patience())
