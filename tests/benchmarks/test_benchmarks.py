"""The benchmarks of the planner in a tiny form: what they compute, and no claim about time."""

from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from planner.heuristics.task import task_of
from planner.plan.plan import Boundary, BoundSource
from planner.solving import solve
from planner.studies.compare import HEURISTICS
from profiles.schema.profile_file import write_profile
from tests.benchmarks.bench_baselines import figures_of, stall_percents
from tests.benchmarks.bench_compare import Figures as CompareFigures
from tests.benchmarks.bench_compare import figures as best_of
from tests.benchmarks.bench_compare import planned, read_baselines, read_ours, summary
from tests.benchmarks.bench_exact import ExactCase, exact, ours
from tests.benchmarks.bench_growth import draw, fitted, series
from tests.benchmarks.bench_robustness import Draw, compared, drawn, slower, stall_of_plan
from tests.benchmarks.bench_solve import verdict
from tests.benchmarks.measured_solve import SolveCase, SolveFigures, measured_solve
from tests.benchmarks.recompute.bench_rebuilders import figures_of as beside_rebuilders
from tests.benchmarks.recompute.bench_rebuilders import line
from tests.benchmarks.tables import written
from tests.support.planning.tasks import task
from tests.support.planning.toys import toy_link, unet_like
from tests.support.recompute.forward_backward import two_blocks

LINK = toy_link(2.0, 2.0, 1.0)


def solved(folder: Path, share: float) -> SolveFigures:
    write_profile(unet_like(3), folder / "toy.profile.json")
    return measured_solve(
        SolveCase(
            profile=str(folder / "toy.profile.json"),
            budget_share=share,
            link="pcie3-x16",
            time_limit_s=600.0,
        )
    )


def test_a_solve_is_measured(tmp_path: Path) -> None:
    found = solved(tmp_path, 0.95)
    assert found.case == "toy/95%/pcie3-x16"
    assert min(found.rows, found.variables, found.models) > 0
    assert found.peak_memory_bytes >= found.start_memory_bytes
    assert found.gap is not None
    assert found.idle_stretches >= found.binaries
    assert [*written([found], tmp_path / "rows.csv")] == [found]
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 2
    assert found.goal_seconds is not None
    assert 0 < found.goal_seconds < found.seconds
    ours = read_ours(tmp_path / "rows.csv")[found.case]
    assert (ours.stall_us, ours.bound_us) == (found.stall_us, found.bound_us)
    assert read_ours(None) == {}


def test_a_budget_that_cannot_be_met_is_compared_with_nothing(tmp_path: Path) -> None:
    found = solved(tmp_path, 0.01)
    assert verdict(found) == "cannot be met"
    assert [*written([found], tmp_path / "rows.csv")] == [found]
    ours = read_ours(tmp_path / "rows.csv")[found.case]
    line = best_of(task_of(unet_like(3), 3000, LINK), "toy", 1, ours, {})
    assert isinstance(line, str)
    assert "needs" in line


def test_verdicts(tmp_path: Path) -> None:
    found = solved(tmp_path, 0.95)
    coarse = replace(found, workload="unet3d", gap=0.02, seconds=50.0)
    assert verdict(coarse) == "reached"
    assert verdict(replace(coarse, gap=0.04, seconds=61.0)) == "missed: gap, time"
    assert verdict(replace(coarse, workload="gpt2")) == "missed: gap, time"
    large = replace(coarse, workload="gpt2", gap=0.01, idle_stretches=4000)
    assert verdict(large) == "reached"
    assert verdict(solved(tmp_path, 0.01)) == "cannot be met"


def test_a_power_is_found_again() -> None:
    ops = [1000, 3000, 10_000]
    power = fitted(ops, [2e-3 * n**1.5 for n in ops])
    assert power.exponent == pytest.approx(1.5)
    assert power.at(5000) == pytest.approx(2e-3 * 5000**1.5)


def test_what_a_time_limit_cut_off_is_not_fitted(tmp_path: Path) -> None:
    one = replace(solved(tmp_path, 0.95), ops=1000, lp_seconds=1.0, bound_source="LP relaxation")
    other = replace(one, ops=2000, lp_seconds=4.0)
    stopped = replace(one, ops=4000, lp_seconds=5.0, bound_source=BoundSource.TRIVIAL.value)
    drawn_series = series([one, other, stopped])
    linear = drawn_series["linear programs, seconds"]
    assert linear.ended == (True, True, False)
    assert linear.fit().exponent == pytest.approx(2.0)
    assert len(draw(drawn_series).axes) == len(drawn_series)


def test_the_exact_model_and_ours_agree_on_a_small_step() -> None:
    case = ExactCase(step="resnet50-v100-16gb", link="pcie3-x16", gaps=3)
    small, budget_bytes = case.small_step()
    assert len(small.storages) == 3
    assert budget_bytes > 0
    theirs, mine = exact(case), ours(case)
    assert mine.bound_units <= theirs.stall_units + 1e-3
    assert mine.stall_units == pytest.approx(theirs.stall_units)
    assert theirs.binaries > mine.binaries


def test_draws_are_the_same_from_the_same_seed_and_slow_the_link() -> None:
    profile = unet_like(3)
    one, again, other = (drawn(profile, LINK, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert 0.85 * LINK.d2h_bytes_per_us <= one.link.d2h_bytes_per_us <= LINK.d2h_bytes_per_us
    assert one.compute_us == pytest.approx(profile.step_us, rel=0.3)


def test_a_plan_in_the_planned_step_stalls_as_its_certificate_says() -> None:
    profile = unet_like(3)
    plan = solve(profile, budget_bytes=3000, link=LINK, boundary=Boundary.RESIDENT)
    as_planned = Draw(tuple(slot.duration_us for slot in profile.slots), LINK)
    stall_us = stall_of_plan(plan)(as_planned)
    assert stall_us == pytest.approx(plan.certificate.simulated_stall_us)
    assert stall_of_plan(plan)(replace(as_planned, link=slower(LINK, 0.5))) > stall_us


def test_every_planner_that_fits_is_simulated_in_every_draw() -> None:
    rows = [*compared("toy", unet_like(3), 3000, LINK, seeds=3, time_limit_s=600.0)]
    assert [row.planner for row in rows[:2]] == ["swapplan", "swapplan, for 90% of the link"]
    assert len(rows) > 4
    for row in rows:
        assert row.worst >= row.median >= 0
        assert row.worst_growth >= row.median_growth
        assert row.median_growth == pytest.approx(row.median - row.planned)


def test_baselines_are_simulated_once_and_read_again(tmp_path: Path) -> None:
    case = task_of(unet_like(3), 3000, LINK)
    rows = [*figures_of(case, "toy", 75)]
    assert [row.baseline for row in rows] == [baseline.name for baseline in HEURISTICS]
    table = pd.DataFrame([asdict(row) for row in rows])
    table.to_csv(tmp_path / "rows.csv", index=False)
    percents = stall_percents(table).loc[("toy", "toy", 75)]
    assert pd.isna(percents["nothing"])
    assert percents["G10"] == round(100 * rows[9].stall_us / case.problem.compute_us, 2)
    known = read_baselines(tmp_path / "rows.csv")
    assert known == {(case.step.profile.fingerprint(), "toy", 75): rows}
    plan = planned(case, 600.0)
    mine = best_of(case, "toy", 75, plan, known)
    again = best_of(case, "toy", 75, plan, {})
    assert isinstance(mine, CompareFigures)
    assert isinstance(again, CompareFigures)
    assert mine.best_us == again.best_us == min(row.stall_us for row in rows if row.fits)
    assert not mine.is_beaten


def test_each_baseline_is_summed_up_over_the_cases_it_fits() -> None:
    case = {"profile": "toy", "link": "toy", "budget_percent": 50}
    other = case | {"budget_percent": 30}
    compared = pd.DataFrame(
        [
            {**case, "compute_us": 100.0, "ours_us": 0.0},
            {**other, "compute_us": 100.0, "ours_us": 50.0},
        ]
    )
    baselines = pd.DataFrame(
        [
            {**case, "baseline": "G10", "fits": True, "stall_us": 100.0, "compute_us": 100.0},
            {**other, "baseline": "G10", "fits": True, "stall_us": 25.0, "compute_us": 100.0},
            {**case, "baseline": "nothing", "fits": False, "stall_us": 0.0, "compute_us": 100.0},
        ]
    )
    table = summary(baselines, compared)
    assert table.loc["G10"].to_list() == [2, 1, 0.85, 0.5]
    assert table.loc["nothing", "fits"] == 0
    assert [*table.index] == [baseline.name for baseline in HEURISTICS]


def test_ours_is_held_against_those_that_run_ops_again_at_their_peaks() -> None:
    rows = {row.baseline: row for row in beside_rebuilders(task(two_blocks(), 12), "toy", 600.0)}
    # Both blocks run again: 20 us of 80, and 12 bytes of 20.
    checkpointing = rows["checkpointing"]
    assert (checkpointing.peak, checkpointing.recompute, checkpointing.stall) == (0.6, 0.25, 0)
    assert all(row.ratio <= 1 for row in rows.values())
    assert line(checkpointing)[:5] == ("toy", "checkpointing", "60.0%", "25.0%", "0.0%")
    behind = replace(checkpointing, ours=0.5)
    assert behind.ratio == 1.2
    assert line(behind)[-1] == "1.200 BEHIND"
