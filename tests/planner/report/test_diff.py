"""Two plans, or two profiles, side by side."""

import re
from functools import cache
from pathlib import Path

import pytest

from planner.plan.plan import Boundary, Plan, Without
from planner.plan.plan_file import write_plan
from planner.report.diff import (
    Moved,
    anchors_table,
    anchors_that_differ_table,
    conditions_table,
    figures_table,
    first_other_slot,
    kinds_side_by_side_table,
    moved_table,
    moved_totals_table,
    op_times_table,
    rebuilt_table,
    storages_that_differ_table,
)
from planner.solving import solve
from profiles.schema.profile import Profile
from profiles.schema.profile_file import write_profile
from runtime.cli import main
from tests.support.planning.rebuilt import mixed_plan, one_of_each
from tests.support.planning.toys import activation, fixed, toy, toy_link, transformer_like


def two_sandwiches(*, work_bytes: int = 100, **more: object) -> Profile:
    """60 and 40 idle bytes around work that needs room in slot 3."""
    return toy(
        *[100.0] * 8,
        storages=[
            activation("pack:0", 60, 0, 7),
            activation("pack:1", 40, 1, 6),
            fixed("workspace", work_bytes, 3),
        ],
        **more,  # type: ignore[arg-type]
    )


@cache
def wide() -> Plan:
    """Room for the smaller one: the larger leaves."""
    return solve(two_sandwiches(), budget_bytes=150)


@cache
def tight() -> Plan:
    """Room for neither."""
    return solve(two_sandwiches(), budget_bytes=100)


def swapping_plan() -> Plan:
    """The step of `mixed_plan`, by swaps alone."""
    profile = one_of_each()
    return solve(profile, budget_bytes=100, min_size_bytes=1, without=Without.RECOMPUTE)


def test_storages_that_only_one_plan_moves() -> None:
    moved = moved_table(wide(), tight())
    assert moved["moved"].to_dict()["pack:1"] == Moved.ONLY_B.value
    assert moved.loc["pack:1", "why"] == ""
    assert moved.loc["pack:1", ["a_swaps", "b_swaps"]].to_list() == [0, 1]
    assert moved.index.to_list() == ["pack:0", "pack:1"]
    turned = moved_table(tight(), wide())
    assert turned.loc["pack:1", "moved"] == Moved.ONLY_A.value


def test_totals_are_the_certificates() -> None:
    for one, other in ((wide(), tight()), (tight(), tight())):
        totals = moved_totals_table(moved_table(one, other))
        assert totals.index.to_list() == [which.value for which in Moved]
        assert totals["a_bytes"].sum() == one.certificate.h2d_bytes
        assert totals["b_bytes"].sum() == other.certificate.h2d_bytes
        assert totals["storages"].sum() == len(moved_table(one, other))


def test_figures_are_the_certificates() -> None:
    figures = figures_table(wide(), tight())
    for figure, of in (
        ("budget", lambda plan: plan.budget_bytes),
        ("peak with the plan", lambda plan: plan.certificate.peak_bytes),
        ("stall", lambda plan: plan.certificate.simulated_stall_us),
        ("step with the plan", lambda plan: plan.certificate.simulated_step_us),
        ("recompute + stall, at least", lambda plan: plan.certificate.bound_beyond_us),
        ("gap to the bound", lambda plan: plan.certificate.optimality_gap),
        ("swaps", lambda plan: len(plan.swaps)),
    ):
        a, b = of(wide()), of(tight())
        assert figures.loc[figure, ["a", "b", "change"]].to_list() == [a, b, b - a]


def test_only_what_differs_is_a_reason() -> None:
    conditions = conditions_table(wide(), tight())
    differing = conditions[~conditions["same"]]
    assert differing.index.to_list() == ["budget"]
    assert differing.loc["budget", ["a", "b"]].to_list() == ["150 B", "100 B"]
    other_link = solve(two_sandwiches(), budget_bytes=100, link=toy_link(2.0, 3.0))
    reasons = conditions_table(tight(), other_link)
    assert reasons.index[~reasons["same"]].to_list() == ["rate to the host", "rate back"]
    without = tight().model_copy(update={"without_checkpointing": True})
    reasons = conditions_table(tight(), without)
    assert reasons.index[~reasons["same"]].to_list() == ["the model's own checkpointing"]
    other_times = solve(two_sandwiches(work_bytes=90), budget_bytes=100)
    reasons = conditions_table(tight(), other_times)
    assert "profile" in reasons.index[~reasons["same"]]


def moved_by(plan: Plan, **anchors: int) -> Plan:
    """The plan with anchors of its first swap at other slots; its certificate is left as it was."""
    first, *rest = plan.swaps
    return plan.model_copy(update={"swaps": (first.model_copy(update=anchors), *rest)})


def test_other_anchors_are_listed_with_how_much_later() -> None:
    plan = wide()
    (swap,) = plan.swaps
    later = moved_by(plan, swap_in_slot=swap.swap_in_slot - 1)
    anchors = anchors_table(plan, later)
    assert len(anchors) == 1
    row = anchors.iloc[0]
    assert (row["name"], row["swap"], row["what"]) == ("pack:0", 1, "swap-in")
    assert row["a"] == plan.slots[swap.swap_in_slot].anchor
    assert row["b"] == plan.slots[swap.swap_in_slot - 1].anchor
    assert row["later_us"] == -100.0
    assert moved_table(plan, later)["moved"].to_list() == [Moved.ELSEWHERE.value]
    assert anchors_table(plan, plan).empty


def test_a_swap_that_only_one_plan_makes_stands_beside_nothing() -> None:
    plan = wide()
    (swap,) = plan.swaps
    twice = plan.model_copy(update={"swaps": (swap, swap)})
    anchors = anchors_table(plan, twice)
    assert anchors["swap"].to_list() == [2] * 6
    assert set(anchors["a"]) == {""}
    assert anchors["later_us"].isna().all()


def test_clean_swaps_differ_from_copied_ones() -> None:
    plan = wide()
    anchors = anchors_table(plan, moved_by(plan, clean=True))
    assert anchors[["what", "a", "b"]].to_numpy().tolist() == [
        ["to host", "copied", "clean, no copy"]
    ]


def test_what_keeps_a_plan_from_moving_a_storage() -> None:
    profile = transformer_like(6)
    periodic = solve(profile, budget_bytes=1344)
    without_small = periodic.model_copy(update={"min_size_bytes": 100, "swaps": ()})
    why = moved_table(periodic, without_small)["why"]
    sizes = moved_table(periodic, without_small)["a_bytes"]
    assert (why[sizes < 100] == "below its smallest candidate").all()
    assert (why[sizes >= 100] == "").all()
    resident = periodic.model_copy(update={"boundary": Boundary.RESIDENT, "swaps": ()})
    why = moved_table(periodic, resident)["why"]
    by_name = {storage.id: storage.name for storage in periodic.storages}
    inside = {by_name[swap.storage] for swap in periodic.swaps if not swap.wraps}
    assert {name for name, reason in why.items() if reason} == set(why.index) - inside
    assert set(why) == {"", "its steps begin resident"}
    other_step = periodic.model_copy(update={"storages": (), "swaps": ()})
    assert set(moved_table(periodic, other_step)["why"]) == {"not in its step"}


def test_what_one_plan_rebuilds_and_the_other_swaps() -> None:
    table = rebuilt_table(mixed_plan(), swapping_plan())
    assert table.index.to_list() == ["pack:2", "pack:0"]
    assert table["a"].to_list() == ["dropped anchor:3 to anchor:5", "dropped anchor:1 to anchor:7"]
    assert table["b"].to_list() == ["swapped", "swapped"]
    assert rebuilt_table(swapping_plan(), swapping_plan()).empty
    assert moved_table(mixed_plan(), swapping_plan())["why"].to_dict() == {
        "pack:0": "rebuilt there",
        "pack:1": "",
        "pack:2": "rebuilt there",
    }
    without = mixed_plan().model_copy(update={"without": Without.SWAP, "swaps": ()})
    moved = moved_table(without, swapping_plan())
    assert moved.loc["pack:1", "why"] == "it may not swap"


def test_plans_that_move_nothing_can_be_compared() -> None:
    empty = solve(two_sandwiches(), budget_bytes=10**6)
    assert moved_table(empty, empty).empty
    assert moved_totals_table(moved_table(empty, empty))["storages"].sum() == 0


# ---- profiles -----------------------------------------------------------------------------------


def other_sandwiches() -> Profile:
    """Another size, another storage, another anchor and other times."""
    return toy(
        *[100.0] * 3,
        *[300.0] * 6,
        storages=[
            activation("pack:0", 66, 0, 7),
            activation("pack:2", 40, 1, 6),
            fixed("workspace", 100, 3),
        ],
    )


def test_storages_that_differ() -> None:
    table = storages_that_differ_table(two_sandwiches(), other_sandwiches())
    assert table["differs"].to_dict() == {
        "pack:0": "other bytes",
        "pack:1": "only in A",
        "pack:2": "only in B",
    }
    assert table.loc["pack:0", ["a_bytes", "b_bytes"]].to_list() == [60, 66]
    assert table.loc["pack:2", ["a_bytes", "b_bytes"]].to_list() == [0, 40]
    assert storages_that_differ_table(two_sandwiches(), two_sandwiches()).empty


def test_figures_and_kinds_of_profiles() -> None:
    one, other = two_sandwiches(), other_sandwiches()
    figures = figures_table(one, other)
    assert figures.loc["step time", ["a", "b", "change"]].to_list() == [800.0, 2100.0, 1300.0]
    assert figures.loc["peak", ["a", "b"]].to_list() == [200, 206]
    kinds = kinds_side_by_side_table(one, other)
    assert kinds.loc["activation"].to_list() == [2, 100, 100, 2, 106, 106]


def test_times_by_operator_add_up_to_the_step() -> None:
    one, other = two_sandwiches(), other_sandwiches()
    ops = op_times_table(one, other)
    assert ops["a_us"].sum() == pytest.approx(one.step_us)
    assert ops["b_us"].sum() == pytest.approx(other.step_us)
    assert ops["change_us"].abs().is_monotonic_decreasing
    assert ops.loc["op8", ["a_ops", "b_ops"]].to_list() == [0, 1]


def test_anchors_that_only_one_profile_has() -> None:
    one, other = two_sandwiches(), other_sandwiches()
    anchors = anchors_that_differ_table(one, other)
    assert anchors.to_numpy().tolist() == [["anchor:8", "B", 8]]
    assert first_other_slot(one, other) == 8
    assert first_other_slot(one, one) is None


# ---- the command --------------------------------------------------------------------------------


def diff(capsys: pytest.CaptureFixture[str], *words: Path | str) -> str:
    assert main(["diff", *map(str, words)]) == 0
    return capsys.readouterr().out


@pytest.fixture
def plans(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "a.plan.json", tmp_path / "b.plan.json.gz"
    for plan, path in zip((wide(), tight()), paths, strict=True):
        write_plan(plan, path)
    return paths


@pytest.fixture
def profiles(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "a.profile.json", tmp_path / "b.profile.json.gz"
    for profile, path in zip((two_sandwiches(), other_sandwiches()), paths, strict=True):
        write_profile(profile, path)
    return paths


def test_the_command_compares_plans(
    plans: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = diff(capsys, *plans)
    assert printed.startswith(f"A: {plans[0]}\nB: {plans[1]}\n")
    for line in (
        r"budget +│ 150 B +│ 100 B",
        r"The same in both: workload, profile, .*link",
        r"budget .* -50 B .* given",
        r"swaps +│ +1 │ +2 │ +\+1",
        r"only in B .* 1 .* 0 B .* 40 B",
        r"Moved only in B \(1 of 1",
        r"pack:1 +│ activation +│ +│ +40 B │ +1 │ its choice",
    ):
        assert re.search(line, printed), line
    assert "alike: the same swaps" not in printed


def test_the_command_compares_recompute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = tmp_path / "a.plan.json", tmp_path / "b.plan.json"
    for plan, path in zip((mixed_plan(), swapping_plan()), paths, strict=True):
        write_plan(plan, path)
    printed = diff(capsys, *paths)
    for line in (
        r"may not use +│ nothing +│ recompute",
        r"dropped and rebuilt +│ +2 │ +0 │ +-2",
        r"recompute +│ +20 us │ +0 us │ +-20 us │ measured",
        r"Dropped and rebuilt in one or both \(2 of 2",
        r"pack:2 +│ +50 B │ dropped anchor:3 to anchor:5 +│ swapped",
    ):
        assert re.search(line, printed), line
    assert "alike: the same swaps" not in printed


def test_a_plan_is_alike_itself(
    plans: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = diff(capsys, plans[0], plans[0])
    assert "Made for the same: workload, profile" in printed
    assert printed.endswith("The two plans are alike: the same swaps at the same anchors.\n")


def test_the_command_compares_profiles(
    profiles: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = diff(capsys, *profiles)
    for line in (
        r"Recorded from the same: workload",
        r"step time .* 800 us .* 2.1 ms .* \+1.3 ms .* measured",
        r"activation +│ +2 │ +2 │ +100 B │ +106 B",
        r"pack:1 +│ activation │ +40 B │ +0 B │ only in A",
        r"op8 +│ +0 │ +1",
        r"Anchors: the first 8 are the same; 1 are in one profile only.",
    ):
        assert re.search(line, printed), line


def test_a_profile_is_alike_itself(
    profiles: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    printed = diff(capsys, profiles[0], profiles[0])
    assert "Storages: the same names, bytes, kinds, uses and lifetimes." in printed
    assert "Times of operators: the same." in printed
    assert "Anchors: the same, in the same order." in printed


def test_lists_can_be_left_out(
    plans: tuple[Path, Path], profiles: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for pair in (plans, profiles):
        printed = diff(capsys, *pair, "--top", "0")
        assert "Figures" in printed
        assert not re.search(r"\b0 of|up to 0", printed)


def test_tables_are_read_at_80_columns(
    plans: tuple[Path, Path],
    profiles: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("planner.cli.output.PIPED_WIDTH", 80)
    for pair in (plans, profiles):
        tables = [line for line in diff(capsys, *pair).splitlines() if line[:1] in "┏┡│└"]
        assert tables
        assert max(map(len, tables)) <= 80
        assert "…" not in "".join(tables)


def test_a_plan_and_a_profile_cannot_be_compared(
    plans: tuple[Path, Path], profiles: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for a, b in ((plans[0], profiles[0]), (profiles[0], plans[0])):
        assert main(["diff", str(a), str(b)]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert "cannot be compared. Give two plans or two profiles." in captured.err


@pytest.mark.parametrize(
    ("content", "printed"),
    [
        (None, "there is no such file"),
        (b"{}", "no swapplan file"),
        (b'{"format": "swapplan-plan"', "not JSON, or only part of it"),
        (b"\x1f\x8b\x08\x00", "the compressed data end too early"),
    ],
)
def test_a_wrong_file_is_one_line(
    content: bytes | None,
    printed: str,
    plans: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = plans[0].with_name("wrong.plan.json")
    if content is not None:
        wrong.write_bytes(content)
    for pair in ((wrong, plans[0]), (plans[0], wrong)):
        assert main(["diff", *map(str, pair)]) == 2
        captured = capsys.readouterr()
        assert printed in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
