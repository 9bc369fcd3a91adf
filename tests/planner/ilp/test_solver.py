"""Running the solvers: how HiGHS is asked to solve, and where CBC's files are."""

from dataclasses import replace
from pathlib import Path

import pytest

from planner.ilp.deadline import Deadline, SolverName
from planner.ilp.model import build
from planner.ilp.solver import NO_BOUND, Cbc, Highs, relaxed_bound
from planner.ilp.variables import Goal
from planner.problem.problem import Problem, problem_of
from planner.problem.settings import SETTINGS
from planner.recompute.offers import Offers, offers_of
from planner.recompute.recipes import StepEffects
from planner.solving import solve
from profiles.schema.errors import SolverError
from tests.support.commands import PATIENCE_S
from tests.support.planning.toys import activation, fixed, toy
from tests.support.recompute.op_steps import op_step


def op_problem(seed: int) -> tuple[Problem, Offers]:
    """A random step at two thirds of its peak, and what it may drop."""
    profile = op_step(seed, most_slots=16, whole=True, traits_chance=0.0)
    whole = problem_of(profile, budget_bytes=1, link=profile.link, min_size_bytes=1)
    budget_bytes = 2 * max(whole.resident_bytes) // 3
    problem = problem_of(profile, budget_bytes=budget_bytes, link=profile.link, min_size_bytes=1)
    return problem, offers_of(StepEffects(profile), problem)


@pytest.mark.parametrize("seed", [0, 1, 3, 7, 10, 11, 12, 13])
def test_large_relaxations_are_solved_inside_and_end_at_a_vertex_too(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, offers = op_problem(seed)
    assert offers.options
    solvers: list[str] = []
    plain = Highs.__init__

    def noted(self: Highs, settings: dict[str, str], deadline: Deadline, enough: float) -> None:
        solvers.append(settings.get("solver", "simplex"))
        plain(self, settings, deadline, enough)

    monkeypatch.setattr(Highs, "__init__", noted)
    deadline = Deadline.within(PATIENCE_S)
    small = relaxed_bound(problem, SolverName.HIGHS, deadline, offers)
    rows = len(build(problem, Goal.RELAXED, offers).program.constraints())
    few = replace(SETTINGS, max_simplex_rows=rows - 1)
    monkeypatch.setattr("planner.ilp.solver.SETTINGS", few)
    large = relaxed_bound(problem, SolverName.HIGHS, deadline, offers)
    assert solvers == ["simplex", "ipm"]
    assert large.stall_us == pytest.approx(small.stall_us, rel=1e-5, abs=1e-4)
    assert large.source is small.source
    stopped = replace(deadline, stop=lambda: len(solvers) > 2)
    assert relaxed_bound(problem, SolverName.HIGHS, stopped, offers) == NO_BOUND


def test_cbc_in_a_folder_with_a_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(SolverError, match=r"space in its name, and TMPDIR is '.*a b'.*highs"):
        Cbc({})
    assert not list(folder.iterdir())


def test_cbc_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.raises(SolverError, match=r"No such file or directory.*TMPDIR"):
        Cbc({})


def test_cbc_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    profile = toy(10, 10, 10, storages=[activation("pack:x", 6, 0, 2), fixed("w", 6, 1)])
    solve(profile, budget_bytes=6, min_size_bytes=1, solver=SolverName.CBC)
    assert not list(tmp_path.iterdir())
