"""The paper's experiments: what is shipped is what the commands print, and says so."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from paper import make
from paper.experiments import EXPERIMENTS, Experiment, Question
from paper.plots import machines_figure, workers_figure
from paper.tables import (
    AXES,
    COMMANDS,
    comparison_markdown,
    largest_table,
    limits_found,
    published,
    recompute_found,
)
from planner.ilp.deadline import SolverName
from planner.report.plots import png_bytes
from planner.studies.limits import footprint
from profiles.hardware.accelerators import ACCELERATORS
from runtime.cli.growing import choose_growing

NAMES = [experiment.name for experiment in EXPERIMENTS]


def test_every_experiment_was_run() -> None:
    limits = limits_found()
    assert limits["experiment"].drop_duplicates().to_list() == NAMES
    for name, rows in limits.groupby("experiment"):
        words = shlex.split(COMMANDS[str(name)])
        assert words[:2] == ["plan", "limits"]
        options = dict(zip(words[3::2], words[4::2], strict=False))
        assert set(rows["device"]) == {options["--device"]}
        assert set(rows["grown"]) == {options["--grow"]}
        if "--links" in options:
            assert set(rows["link"]) == set(options["--links"].split(","))


def test_the_shipped_rows_are_within_what_they_claim() -> None:
    limits = limits_found()
    assert (limits["outcome"] == "planned").all()
    assert (limits["peak_bytes"] <= limits["budget_bytes"]).all()
    assert (limits["peak_without_bytes"] > limits["budget_bytes"]).all()
    assert (limits["slower"] >= limits["slower_bound"] - 1e-9).all()
    assert (limits["setting"] <= limits["planned_setting"]).all()
    assert (limits["setting"] > limits["without_setting"]).all()


def test_plans_that_run_ops_again_are_of_the_same_steps_and_no_slower() -> None:
    keys = ["experiment", "link", "workers", "all_reduce_on_link", "setting"]
    both, alone = recompute_found().set_index(keys), limits_found().set_index(keys)
    assert (both["outcome"] == "planned").all()
    assert (both["peak_bytes"] <= both["budget_bytes"]).all()
    beside = alone.loc[both.index]
    same = ["budget_bytes", "peak_without_bytes", "d2h_bytes_per_us", "h2d_bytes_per_us"]
    assert both[same].equals(beside[same])
    assert both["compute_us"].to_list() == pytest.approx(beside["compute_us"].to_list())
    assert (both["step_us"] <= beside["step_us"]).all()
    assert (both["slower"] >= both["slower_bound"] - 1e-9).all()


def test_the_limits_shipped_are_those_of_the_estimates() -> None:
    """Estimated anew: both limits fit and the next larger sizes do not."""
    row = limits_found().set_index("experiment").loc["volume-v100-16gb"].iloc[0]
    grown = choose_growing("unet3d", key="size", device="v100-16gb", settings=(), seed=0)
    budget_bytes = grown.usable_bytes
    assert budget_bytes == row["budget_bytes"]

    def needs(size: int) -> tuple[bool, bool]:
        found = footprint(
            size,
            grown.profile(size),
            budget_bytes=budget_bytes,
            host_budget_bytes=None,
            solver=SolverName.HIGHS,
        )
        return found.peak_bytes <= budget_bytes, found.least_bytes <= budget_bytes

    without, planned = int(row["without_setting"]), int(row["planned_setting"])
    assert needs(without) == (True, True)
    assert needs(without + 16) == (False, True)
    assert needs(planned) == (False, True)
    assert needs(planned + 16) == (False, False)


def test_the_largest_of_each_experiment() -> None:
    limits = limits_found()
    table = largest_table(limits, recompute_found())
    assert table.index.to_list() == NAMES
    volume = table.loc["volume-v100-16gb"]
    assert volume["factor"] == pytest.approx((volume["planned"] / volume["without"]) ** 3)
    assert re.fullmatch(r"\+\d+% over pcie3-x16, \+\d+% over nvlink2-ac922-4gpu", volume["slower"])
    assert "over pcie3-x16 with 4 workers" in table.loc["workers-pcie3", "slower"]


def test_each_of_our_figures_has_its_command_and_each_of_theirs_its_source() -> None:
    theirs = published()
    assert set(theirs["read"]) == {"source", "abstract"}
    assert (theirs[["published", "by", "source"]] != "").all(axis=None)
    assert set(theirs["experiment"]) <= set(NAMES)
    lines = comparison_markdown(limits_found(), recompute_found(), theirs).splitlines()
    assert len(lines) == 2 + len(NAMES)
    for line, name in zip(lines[2:], NAMES, strict=True):
        assert line.count("|") == 5
        assert f"`{COMMANDS[name]}`" in line
        for said in theirs[theirs["experiment"] == name]["published"]:
            assert f"**{said}**" in line


def test_pictures_are_drawn() -> None:
    limits = limits_found()
    volumes = limits[limits["question"] == Question.VOLUME.value]
    workers = limits[limits["question"] == Question.WORKERS.value]
    for figure in (machines_figure(volumes, title="a"), workers_figure(workers, title="b")):
        assert png_bytes(figure).startswith(b"\x89PNG")


def test_axes_are_those_of_the_setting() -> None:
    assert (AXES["volume-h200"], AXES["resolution-v100-16gb"], AXES["batch-v100-16gb"]) == (3, 2, 1)
    assert set(map(device_of, EXPERIMENTS)) <= set(ACCELERATORS)


def device_of(experiment: Experiment) -> str:
    words = shlex.split(experiment.command)
    return words[words.index("--device") + 1]


def test_an_experiment_made_again_takes_the_place_of_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(experiment: Experiment) -> pd.DataFrame:
        return pd.DataFrame({"experiment": [experiment.name], "setting": [len(made)]})

    def again(experiment: Experiment, found: pd.DataFrame) -> pd.DataFrame:
        assert set(found["experiment"]) == {experiment.name}
        return found

    made: list[str] = []
    monkeypatch.setattr(make, "TABLE", tmp_path / "limits.csv")
    monkeypatch.setattr(make, "RECOMPUTE_TABLE", tmp_path / "recompute.csv")
    monkeypatch.setattr(make, "run", run)
    monkeypatch.setattr(make, "with_recompute", again)
    for name in (NAMES[1], NAMES[0], NAMES[1]):
        assert make.main([name]) == 0
        made.append(name)
    table = pd.read_csv(tmp_path / "limits.csv")
    assert table.to_numpy().tolist() == [[NAMES[0], 1], [NAMES[1], 2]]
    assert pd.read_csv(tmp_path / "recompute.csv").equals(table)
    made.append("not run")
    assert make.main(["--recompute", NAMES[0]]) == 0
    assert pd.read_csv(tmp_path / "limits.csv").equals(table)
    capsys.readouterr()
    assert make.main(["nope"]) == 2
    assert capsys.readouterr().out.startswith("There is no experiment nope; there are volume-")
