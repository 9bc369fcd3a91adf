"""`plan compare` on a toy: what it prints, what it writes, and what it refuses."""

from pathlib import Path

import pandas as pd
import pytest

from planner.heuristics.recomputing.catalog import RECOMPUTING
from planner.studies.compare import (
    CHECKPOINTING,
    HEURISTICS,
    OURS,
    OURS_AT_CHECKPOINTING,
    OURS_RECOMPUTE,
    PUBLISHED,
)
from planner.studies.rows import REFERENCE, REFERENCES, Published
from profiles.schema.profile_file import write_profile
from runtime.cli import main
from tests.support.planning.toys import activation, fixed, toy
from tests.support.recompute.forward_backward import two_blocks

PRINTED: tuple[Published, ...] = (*PUBLISHED, *RECOMPUTING, *REFERENCES)
RULES: tuple[Published, ...] = (*HEURISTICS, *RECOMPUTING, *REFERENCES)
BASELINES = [baseline.name for baseline in RULES]
NAMES = [OURS, OURS_RECOMPUTE, *BASELINES]
OTHERWISE_TIMED = [f"{OURS}'s gaps, one layer ahead", f"{OURS}'s gaps, just in time"]


@pytest.fixture
def profile_file(tmp_path: Path) -> Path:
    """x or y, 600 bytes each, must be away while slot 3 needs 600 more than 1200."""
    storages = [activation("x", 600, 0, 6), activation("y", 600, 1, 5), fixed("w", 600, 3)]
    path = tmp_path / "toy.profile.json"
    write_profile(toy(*[1000] * 7, storages=storages), path)
    return path


def test_the_table_has_ours_first_and_every_baseline(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    csv = profile_file.with_name("table.csv")
    assert main(["compare", str(profile_file), "--budget", "1200", "--csv", str(csv)]) == 0
    printed = capsys.readouterr().out
    assert "All figures are simulated" in printed
    for baseline in PRINTED:
        assert baseline.source.split(",")[0] in printed
    table = pd.read_csv(csv, index_col="name")
    assert [*table.index] == [OURS, OURS_RECOMPUTE, *OTHERWISE_TIMED, *BASELINES]
    assert table.loc[OURS, "stall_us"] == 0
    assert table.loc[OURS, "swaps"] == 1
    assert table.loc["PyTorch LMS", "stall_us"] == 600
    assert table.loc["PyTorch LMS", "retimed_stall_us"] == 0
    assert table.loc[OURS, "smallest_budget_bytes"] == 600
    assert not table.loc["nothing", "fits"]
    assert table.loc["nothing", "smallest_budget_bytes"] == 1800
    dtr, host_adam = (table.loc[reference.name] for reference in REFERENCES[:2])
    # Nothing is known of the ops of a toy, so none runs again.
    assert (dtr["note"], dtr["recompute_us"]) == (REFERENCE, 0)
    assert dtr[["gap", "retimed_stall_us"]].isna().all()
    assert host_adam["note"] == "the step has no optimizer step of its own"
    assert host_adam[["fits", "step_us", "peak_bytes"]].isna().all()
    assert f"n/a: {host_adam['note']}" in printed


def test_ours_stands_beside_checkpointing_at_its_own_peak(tmp_path: Path) -> None:
    # Checkpointing both blocks takes 12 bytes and 20 us more; see what is asserted of it there.
    path, csv = tmp_path / "toy.profile.json", tmp_path / "table.csv"
    write_profile(two_blocks(), path)
    words = [str(path), "--budget", "16", "--min-size", "1", "--csv", str(csv)]
    assert main(["compare", *words]) == 0
    table = pd.read_csv(csv, index_col="name")
    assert [*table.index][-1] == OURS_AT_CHECKPOINTING
    checkpointing, ours = table.loc[CHECKPOINTING], table.loc[OURS_AT_CHECKPOINTING]
    assert (checkpointing["peak_bytes"], checkpointing["recompute_us"]) == (12, 20)
    assert ours["peak_bytes"] <= 12
    assert ours["step_us"] <= checkpointing["step_us"] == 100


def test_brief_leaves_out_what_takes_longest(profile_file: Path) -> None:
    csv = profile_file.with_name("table.csv")
    words = ["compare", str(profile_file), "--budget", "1200", "--brief", "--csv", str(csv)]
    assert main(words) == 0
    table = pd.read_csv(csv, index_col="name")
    assert [*table.index] == NAMES
    assert table["smallest_budget_bytes"].isna().all()
    assert table["retimed_stall_us"].isna().all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "500"], "600 bytes"),
        (["--budget", "half"], "--budget is 'half'"),
        (["--budget", "1200", "--link", "pcie3"], "pcie3-x16"),
        (["--budget", "1200", "--time-limit", "0"], "--time-limit"),
        (["--budget", "1200", "--csv", "/nowhere/table.csv"], "/nowhere/table.csv"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    profile_file: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(profile_file), *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.splitlines()[-1]
    assert last.startswith("plan: ")
    assert message in last


def test_no_such_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path / "missing.json"), "--budget", "1GiB"]) == 2
    assert "there is no such file" in capsys.readouterr().err
