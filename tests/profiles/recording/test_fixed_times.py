"""Times that tests bring along, and times scaled as by another machine."""

import ast
import itertools
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from planner.solving import solve
from profiles.recording import clocks as stamps
from profiles.recording.clocks import CpuClock
from profiles.schema.profile import Profile
from profiles.schema.profile_file import read_profile, write_profile
from tests.support.training.fixed_times import (
    COMPUTE_BYTES_PER_US,
    LAUNCH_US,
    MEMORY_BYTES_PER_US,
    give_fixed_times,
    with_fixed_times,
)
from tests.support.training.kernel_plans import masking_profile
from tests.support.training.scaled_times import LEAST, MOST, scale_times

TESTS = Path(__file__).parents[2]
RECORDER = "profiles.recording.record.record"
PLANNERS = {
    "planner.solving.solve",
    "tests.support.planning.hardest_plans.everything_away",
    "tests.support.planning.hardest_plans.periodic",
}


def on_another_machine(profile: Profile) -> Profile:
    """The same recording, each of its times drawn anew."""
    drawn = random.Random(0)
    slots = [
        slot.model_copy(update={"duration_us": slot.duration_us * drawn.uniform(LEAST, MOST)})
        for slot in profile.slots
    ]
    ops = [
        op.model_copy(update={"duration_us": op.duration_us * drawn.uniform(LEAST, MOST)})
        for op in profile.ops
    ]
    return profile.model_copy(update={"slots": tuple(slots), "ops": tuple(ops)})


def test_fixed_times_are_the_same_on_each_machine(tmp_path: Path) -> None:
    here, there = masking_profile(), on_another_machine(masking_profile())
    assert there != here
    assert with_fixed_times(there) == here
    path = tmp_path / "masking.profile.json"
    write_profile(there, path)
    assert give_fixed_times(path) == read_profile(path) == here


def test_an_op_takes_what_its_bytes_ask_for() -> None:
    profile = masking_profile()
    bytes_per_us = {
        "aten.addmm.default": COMPUTE_BYTES_PER_US,
        "aten.gt.Scalar": MEMORY_BYTES_PER_US,
    }
    for name, rate in bytes_per_us.items():
        position = next(k for k, op in enumerate(profile.ops) if op.name == name)
        touched = [s for s in profile.storages if any(use.op == position for use in s.uses)]
        size_bytes = sum(storage.size_bytes for storage in touched)
        assert profile.ops[position].duration_us == LAUNCH_US + size_bytes / rate
    assert profile.step_us == pytest.approx(sum(op.duration_us for op in profile.ops))


def test_other_times_make_another_plan() -> None:
    """So a test that plans from measured times may see anything planned."""
    plans = [
        solve(profile, budget_bytes=1 << 20, min_size_bytes=1)
        for profile in (masking_profile(), on_another_machine(masking_profile()))
    ]
    assert plans[0].swaps != plans[1].swaps


def intervals_us(patch: pytest.MonkeyPatch, count: int) -> list[float]:
    """What the processor's clock says of stamps that are 1 us apart."""
    now_ns = itertools.count(step=1000)
    patch.setattr(stamps, "time", SimpleNamespace(perf_counter_ns=lambda: next(now_ns)))
    clock = CpuClock()
    clock.start()
    for _ in range(count + 1):
        clock.stamp()
    return clock.intervals_us()


def test_measured_times_are_scaled_by_seed() -> None:
    found = {}
    for number, seed in enumerate((1, 1, 2)):
        with pytest.MonkeyPatch.context() as patch:
            scale_times(seed, patch)
            found[number] = intervals_us(patch, 200)
    assert found[0] == found[1] != found[2]
    assert LEAST <= min(found[0]) < 0.3
    assert 3.5 < max(found[0]) <= MOST


def imported_names(path: Path) -> set[str]:
    statements = ast.walk(ast.parse(path.read_text()))
    return {
        f"{statement.module}.{name.name}"
        for statement in statements
        if isinstance(statement, ast.ImportFrom)
        for name in statement.names
    }


def test_what_plans_records_at_fixed_times() -> None:
    names_of = {str(path.relative_to(TESTS)): imported_names(path) for path in TESTS.rglob("*.py")}
    planning = {name for name, names in names_of.items() if RECORDER in names and names & PLANNERS}
    # What is measured on this machine is what these are about; neither asserts on a plan.
    assert planning == {"gpu/methods.py", "benchmarks/recompute/bench_measured.py"}, (
        "plan from record_at_fixed_times"
    )
