"""What `plan run` writes of measured steps: a trace beside the simulated one, and slots' times."""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from planner.plan.plan import Plan
from planner.plan.plan_file import read_plan
from planner.plan.simulate import Copy, Timeline, simulate_plan
from planner.report.perfetto import Lane, Process, trace
from planner.report.tables import slot_times_table
from runtime.cli import main
from tests.support.commands import TRAINING, solved
from tests.support.training.fixed_times import give_fixed_times


@pytest.fixture(name="plan")
def _plan(profile_file: Path) -> Plan:
    """50 bytes that go out and come back round the third of six slots; the last one ends it."""
    return solved(profile_file, "--budget", "70%")


def measured(plan: Plan, late_us: float = 0.0) -> Timeline:
    """A step as the simulator has it, with every anchor a little late."""
    ideal = simulate_plan(plan)
    count = len(plan.slots)
    return Timeline(
        start_us=tuple(start_us + late_us * (t + 1) for t, start_us in enumerate(ideal.start_us)),
        stall_us=(late_us,) * count,
        d2h=tuple(Copy(c.storage, c.start_us, c.end_us + late_us) for c in ideal.d2h),
        h2d=tuple(Copy(c.storage, c.start_us, c.end_us + late_us) for c in ideal.h2d),
        step_us=ideal.step_us + late_us * count,
        total_stall_us=late_us * count,
    )


def slices(content: dict[str, Any], process: Process, lane: Lane) -> list[dict[str, Any]]:
    return [
        event
        for event in content["traceEvents"]
        if event["ph"] == "X" and (event["pid"], event["tid"]) == (process.value, lane.value)
    ]


def names(content: dict[str, Any], process: Process, lane: Lane) -> list[str]:
    return [event["name"] for event in slices(content, process, lane)]


def test_both_processes_have_the_same_lanes_and_names(plan: Plan) -> None:
    content = trace(plan, measured(plan, 2.0))
    titles = {
        event["pid"]: event["args"]["name"]
        for event in content["traceEvents"]
        if event["name"] == "process_name"
    }
    assert titles.keys() == {process.value for process in Process}
    assert titles[Process.MEASURED].startswith("swapplan, measured: ")
    assert titles[Process.SIMULATED].startswith("swapplan, simulated: ")
    for lane in (Lane.D2H, Lane.H2D):
        simulated = names(content, Process.SIMULATED, lane)
        assert names(content, Process.MEASURED, lane) == simulated == ["pack:0"]
    slots = [slot.anchor for slot in plan.slots]
    compute = names(content, Process.MEASURED, Lane.COMPUTE)
    assert [name for name in compute if name != "stall"] == slots
    assert compute.count("stall") == 2, "at the release and at the await, nowhere else"


def test_the_simulated_part_is_what_plan_trace_writes(plan: Plan) -> None:
    content = trace(plan, measured(plan))
    rest = [event for event in content["traceEvents"] if event["pid"] == Process.SIMULATED]
    assert rest == trace(plan)["traceEvents"]


def test_a_measured_slot_lasts_until_the_next_anchor(plan: Plan) -> None:
    content = trace(plan, measured(plan, 2.0))
    compute = slices(content, Process.MEASURED, Lane.COMPUTE)
    first, second = (event for event in compute if event["name"] != "stall" and event["ts"] < 2000)
    assert (first["ts"], first["dur"]) == (2.0, 1000.0)
    assert second["ts"] == 1004.0
    stall = next(event for event in compute if event["name"] == "stall")
    assert stall["dur"] == 2.0
    assert slices(content, Process.MEASURED, Lane.STEP)[0]["dur"] == 5012.0


SLOT_TIMES = (
    "anchor",
    "simulated_start_us",
    "measured_start_us",
    "simulated_stall_us",
    "measured_stall_us",
)


def test_the_slots_times_are_medians(plan: Plan) -> None:
    steps = [measured(plan, late_us) for late_us in (1.0, 50.0, 3.0)]
    table = slot_times_table(plan, steps)
    assert (table.index.name, *table.columns) == ("slot", *SLOT_TIMES)
    assert table["simulated_start_us"].tolist() == list(simulate_plan(plan).start_us)
    assert table["measured_stall_us"].tolist() == [3.0] * len(plan.slots)
    assert table["measured_start_us"].tolist() == list(measured(plan, 3.0).start_us)


def test_plan_run_writes_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(TRAINING)
    profile, plan = tmp_path / "mine.profile.json.gz", tmp_path / "mine.plan.json"
    words = ["profile", f"{tmp_path}/mine.py:train", "--set", "width=32"]
    assert main([*words, "--warmup", "1", "--steps", "1", "-o", str(profile)]) == 0
    give_fixed_times(profile)
    assert main(["solve", str(profile), "--budget", "90%", "-o", str(plan)]) == 0
    traced, slots = tmp_path / "run.trace.json.gz", tmp_path / "run.csv"
    words = ["run", str(plan), "--steps", "4", "--trace", str(traced), "--slots", str(slots)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert f"Wrote {traced}\nWrote {slots}\n" in printed
    assert "swapplan: 4 steps; 0 fell back" in printed
    content = json.loads(gzip.decompress(traced.read_bytes()))
    solved_plan = read_plan(plan)
    copies = len(slices(content, Process.MEASURED, Lane.D2H))
    assert copies == sum(not swap.clean for swap in solved_plan.swaps) > 0
    table = pd.read_csv(slots)
    assert tuple(table.columns) == ("slot", *SLOT_TIMES)
    assert len(table) == len(solved_plan.slots)


def test_what_cannot_be_written_is_told_before_the_training(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run", str(tmp_path / "toy.plan.json"), "--workload", "unet3d"]
    assert main([*words, "--trace", str(tmp_path / "none" / "x.json")]) == 2
    assert main([*words, "--slots", str(tmp_path / "x.csv"), "--workers", "2"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "cannot be written" in told[-2]
    assert "--workers 2 does not go with --trace or --slots" in told[-1]
