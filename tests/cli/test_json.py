"""`--json`: one object on stdout, with bytes, microseconds and null for what is not known."""

import json
from pathlib import Path
from typing import Any

import pytest

from planner.plan.plan_file import write_plan
from profiles.hardware.accelerators import ACCELERATORS
from profiles.hardware.links import LINKS
from profiles.library.index import read_index
from profiles.schema.profile_file import read_profile
from runtime.cli import main
from tests.support.commands import TRAINING, solved
from tests.support.planning.rebuilt import mixed_plan


@pytest.fixture
def plan_file(profile_file: Path) -> Path:
    solved(profile_file, "--budget", "70%")
    return profile_file.with_name("toy.plan.json")


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main([str(word) for word in (*words, "--json")]) == 0

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found: dict[str, Any] = json.loads(capsys.readouterr().out, parse_constant=refused)
    return found


def test_a_profile(profile_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "show", profile_file)
    profile = read_profile(profile_file)
    assert found["profile"]["peak_bytes"] == profile.peak_bytes == 150
    assert found["profile"]["times"] == "measured"
    assert [row["name"] for row in found["storages"]] == [one.name for one in profile.storages]
    assert {row["kind"] for row in found["kinds"]} == {one.kind.value for one in profile.storages}


def test_a_plan(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "show", plan_file)
    assert found["plan"]["certificate"]["peak_bytes"] == 100
    assert {"figure": "stall", "value": "0 us", "comes_from": "simulated"} in found["figures"]
    [swap] = found["swaps"]
    assert (swap["name"], swap["size_bytes"], swap["swap_out"]) == ("pack:0", 50, "anchor:1")


def test_all_rows_are_there_and_what_is_not_known_is_null(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mixed.plan.json"
    write_plan(mixed_plan(), path)
    found = printed(capsys, "show", path, "--top", "1")
    assert len(found["swaps"]) == len(mixed_plan().swaps)
    assert len(found["rebuilds"]) == sum(len(one.drops) for one in mixed_plan().rebuilds)


def test_checks_and_differences(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, "check", plan_file)
    assert found["mismatches"] == []
    assert all(figure["matches"] for figure in found["figures"])
    found = printed(capsys, "diff", plan_file, plan_file)
    assert all(row["same"] for row in found["conditions"])
    assert [row["moved"] for row in found["moved"]] == ["in both, alike"]


def test_a_sweep_and_a_comparison(profile_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv = profile_file.with_name("table.csv")
    words = ("sweep", profile_file, "--budgets", "60%,70%", "--processes", "1", "-o", csv)
    rows = printed(capsys, *words)["plans"]
    assert [row["budget_bytes"] for row in rows] == [90, 105]
    assert rows[0]["step_us"] is None
    assert rows[0]["smallest_budget_bytes"] == 100
    assert csv.exists()
    rows = printed(capsys, "compare", profile_file, "--budget", "70%", "--brief")["rows"]
    assert (rows[0]["name"], rows[0]["peak_bytes"]) == ("swapplan", 100)


def test_limits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(TRAINING)
    words = ["--grow", "width", "--device", "v100-16gb", "--budget", "120KiB", "--processes", "1"]
    words += ["--multiple-of", "8", "--time-limit", "1"]
    found = printed(capsys, "limits", f"{tmp_path}/mine.py:train", *words)
    [limits] = found["limits"]
    assert limits["budget_bytes"] == 120 * 1024
    assert [row["setting"] for row in found["plans"]] == [limits["planned"]["setting"]]


def test_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert {row["name"] for row in printed(capsys, "devices")["devices"]} == set(ACCELERATORS)
    assert {row["link"]["name"] for row in printed(capsys, "links")["links"]} == set(LINKS)
    names = [entry.name for entry in read_index().entries]
    assert [row["name"] for row in printed(capsys, "library")["library"]] == names
    unet = next(row for row in printed(capsys, "workloads")["workloads"] if row["name"] == "unet3d")
    assert unet["parameters"] > 5_000_000
    assert {"size", "batch"} <= {setting["name"] for setting in unet["settings"]}
