"""Our plan beside the heuristics: what a row says."""

from planner.heuristics import controls
from planner.heuristics.lms import PYTORCH_LMS
from planner.ilp.deadline import SolverName
from planner.studies.compare import (
    Comparison,
    our_plan,
    our_row,
    our_selection,
    our_selection_otherwise_timed,
    our_smallest_budget_bytes,
)
from planner.studies.rows import STOPPED, Clock
from tests.support.planning.tasks import task, two_for_one


def test_our_row_is_the_plan_s_certificate() -> None:
    asked = task(two_for_one(), 12)
    plan = our_plan(asked, solver=SolverName.HIGHS, time_limit_s=600.0)
    row = our_row(plan, our_smallest_budget_bytes(asked))
    assert (row.stall_us, row.gap, row.fits) == (0, 0, True)
    assert row.smallest_budget_bytes == 6


def test_selection_and_timing_are_scored_apart() -> None:
    # With our timing x, which PyTorch LMS moves too, comes back in slot 5.
    asked = task(two_for_one(), 12)
    row = Comparison(asked, 0.0).row(PYTORCH_LMS)
    assert (row.stall_us, row.retimed_stall_us) == (6, 0)
    nothing = Comparison(asked, 0.0).row(controls.NOTHING)
    assert (nothing.fits, nothing.retimed_stall_us, nothing.gap) == (False, None, None)


def test_our_selection_with_other_timings() -> None:
    # Both x and y must go at budget 6, and come back one after the other.
    asked = task(two_for_one(), 6)
    plan = our_plan(asked, solver=SolverName.HIGHS, time_limit_s=600.0)
    ahead, in_time = our_selection_otherwise_timed(plan)
    bounded = asked.bounded(plan.boundary)
    assert {bounded.gaps[i].storage for i in our_selection(bounded, plan)} == {0, 1}
    rows = [Comparison(asked, 0.0, is_full=False).row(one) for one in (ahead, in_time)]
    assert [row.swaps for row in rows] == [2, 2]
    assert all(row.stall_us >= plan.certificate.simulated_stall_us for row in rows)


def test_what_there_was_no_time_for_is_left_out_and_said() -> None:
    row = Comparison(task(two_for_one(), 12), 0.0).row(PYTORCH_LMS, lambda: True)
    assert (row.stall_us, row.note) == (6, STOPPED)
    assert row.retimed_stall_us is row.smallest_budget_bytes is None


def test_no_baseline_takes_all_the_time() -> None:
    assert Clock(0.0).share(10)()
    assert not Clock(1e9).share(10)()
