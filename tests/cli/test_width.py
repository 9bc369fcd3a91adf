"""Every table that a command prints is read at 80 columns, and nothing in it is cut off."""

from collections.abc import Callable
from pathlib import Path

import pytest

from planner.cli import output
from planner.cli.output import print_table
from planner.cli.show import print_plan, print_profile
from planner.plan.plan_file import write_plan
from profiles.schema.profile_file import read_profile
from runtime.cli import main
from runtime.cli.proof_report import print_proofs
from tests.cli.test_commands import report
from tests.support.commands import solved
from tests.support.planning.rebuilt import mixed_plan

LINES = "┏┡│└"


def tables(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line[:1] and line[0] in LINES]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Callable[[], None]:
    def fits() -> None:
        lines = tables(capsys.readouterr().out)
        assert lines
        assert max(map(len, lines)) <= 80
        # A table that Rich had to crop has lost its right edge.
        assert {line[-1] for line in lines} <= set("┓┩│┘")
        assert "…" not in "".join(lines)

    return fits


@pytest.mark.parametrize(
    "words",
    [
        "workloads",
        "devices --sources",
        "links --sources",
        "library",
        "show library:llama-7b-h200",
        "show library:unet3d-144-v100-16gb",
        "diff library:unet3d-144-v100-16gb library:unet3d-144-h200",
    ],
)
def test_of_what_comes_along(words: str, check: Callable[[], None]) -> None:
    assert main(words.split()) == 0
    check()


def test_of_plans_and_sweeps(
    profile_file: Path, check: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    solved(profile_file, "--budget", "70%")
    check()
    budgets = ("--budgets", "60%,70%,200%", "--workers", "1,2", "--share", "switch=2,memory=1GB/s")
    assert main(["sweep", str(profile_file), *budgets, "--processes", "1"]) == 0
    check()
    assert main(["solve", str(profile_file), "--budget", "60%"]) == 2
    check()
    plan, other = profile_file.with_name("toy.plan.json"), profile_file.with_name("other.plan.json")
    write_plan(mixed_plan(), other)
    for words in (["check", str(plan)], ["diff", str(plan), str(other)], ["show", str(other)]):
        assert main(words) == 0
        check()
    assert main(["compare", str(profile_file), "--budget", "70%"]) == 0
    printed = capsys.readouterr().out.splitlines()
    header = next(at for at, line in enumerate(printed) if line.split()[:1] == ["fits"])
    assert max(map(len, printed[header : header + 20])) <= 80


def test_of_long_names_and_large_figures(profile_file: Path, check: Callable[[], None]) -> None:
    name = "a.module.inside.a.module.inside.a.module"
    plan = mixed_plan()
    storages = tuple(
        storage.model_copy(update={"module": name, "size_bytes": storage.size_bytes})
        for storage in plan.storages
    )
    print_plan(plan.model_copy(update={"storages": storages}), top=5)
    check()
    profile = read_profile(profile_file)
    renamed = tuple(one.model_copy(update={"module": name}) for one in profile.storages)
    print_profile(profile.model_copy(update={"storages": renamed}), top=5)
    check()


@pytest.mark.parametrize("workers", [1, 2])
def test_of_proofs(check: Callable[[], None], workers: int) -> None:
    found = report(
        losses=(1.890091, 0.769482),
        peak_without_bytes=650_939_396,
        peak_with_bytes=260_324_356,
        rebuild_us=1e5,
        recompute_us=9e4,
        rebuilt_bytes=150 << 20,
        ops_run_again=12,
        resident_growth_with_bytes=1 << 29,
    )
    print_proofs([found] * workers, of_workers=workers > 1)
    check()


def test_columns_that_find_no_room_go_below_beside_the_keys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PIPED_WIDTH", 30)
    print_table("Of many", ["key", "one", "two"], [["k", "1" * 13, "2" * 13]], right=["one", "two"])
    printed = capsys.readouterr().out
    assert printed.count("│ k ") == 2
    assert printed.index("1" * 13) < printed.index("2" * 13)
    assert max(map(len, printed.splitlines())) <= 30


def test_text_folds_before_a_number_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "PIPED_WIDTH", 50)
    rows = [["key", "12345.00 GiB", "words of some length that need two lines"]]
    print_table("One", ["", "bytes", "why"], rows, right=["bytes"])
    assert "│ 12345.00 GiB │" in capsys.readouterr().out
