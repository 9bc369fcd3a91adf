"""What rebuilding costs, measured in a tiny form: what is computed, and no claim about time."""

import math
from dataclasses import astuple

import pytest

from tests.benchmarks.recompute.bench_measured import HEADINGS, Figures, line
from tests.benchmarks.recompute.bench_rebuild_overhead import KINDS, Made, overhead


@pytest.mark.parametrize("made", KINDS, ids=lambda made: made.__name__)
def test_each_kind_of_recipe_is_noted_and_run_again(made: Made) -> None:
    found = overhead(made, recipes=2, rounds=1)
    assert found.ops == (1 if made is KINDS[0] else 4)
    assert all(map(math.isfinite, astuple(found)))


def test_a_step_is_compared_with_its_simulation() -> None:
    figures = Figures(
        name="toy",
        share=0.5,
        planned_us=20.0,
        compute_us=100.0,
        without_us=200.0,
        idle_us=210.0,
        with_us=264.0,
        again_us=50.0,
        noting_us=4.0,
        ops=3,
    )
    assert figures.simulated == pytest.approx(1.2)
    assert figures.measured == pytest.approx(1.32)
    row = dict(zip(HEADINGS, line(figures), strict=True))
    assert row["off"] == "+10.0%"
    assert row["planned"] == "20.0%"
    assert row["again"] == "25.0%"
    assert row["noting"] == "2.0%"
    assert row["hooks, guard"] == "5.0%"
