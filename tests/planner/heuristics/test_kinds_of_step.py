"""Every published rule on recorded steps of kinds that its authors may never have thought of."""

from functools import cache

import pytest

from planner.heuristics.heuristic import Heuristic
from planner.heuristics.task import Task, task_of
from planner.studies.compare import HEURISTICS, Comparison
from planner.studies.rows import Clock, NotApplicable, recomputing_rows, reference_rows
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.steps import STEPS

KINDS = (
    *("AdamW, foreach", "LBFGS", "closure", "accumulation", "scaler", "reentrant checkpoint"),
    *("adversarial as one", "updated in backward", "backward twice", "recurrent", "tied weights"),
    *("gradient penalty", "SparseAdam", "carried state", "batches in a window"),
)

PATIENCE_S = 2.0


@cache
def task(kind: str) -> Task:
    profile = record_at_fixed_times(STEPS[kind]())
    return task_of(profile, int(0.7 * profile.peak_bytes))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", HEURISTICS, ids=lambda rule: rule.name)
def test_a_rule_answers_in_an_order_that_can_be(rule: Heuristic, kind: str) -> None:
    comparison = Comparison(task(kind), bound_stall_us=0.0, is_full=False)
    asked = task(kind).bounded(rule.boundary)
    last = asked.step.slot_count
    for swap in rule.swaps(asked):
        slots = (swap.swap_out_slot, swap.release_slot, swap.swap_in_slot, swap.await_slot)
        # Those that wrap come back in the step after.
        wraps = slots[3] >= last or slots[3] < slots[0]
        assert wraps or slots == tuple(sorted(slots)), slots
    assert comparison.row(rule).stall_us >= 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_those_that_run_ops_again_and_references_answer(kind: str) -> None:
    """As many as there is time for; each has begun."""
    rows = [
        *recomputing_rows(task(kind), 0.0, clock=Clock(PATIENCE_S)),
        *reference_rows(task(kind), clock=Clock(PATIENCE_S)),
    ]
    assert len(rows) > 8
    is_several = kind in ("adversarial as one", "updated in backward")
    notes = [row.note for row in rows if isinstance(row, NotApplicable)]
    assert any("several optimizers" in note for note in notes) is is_several
