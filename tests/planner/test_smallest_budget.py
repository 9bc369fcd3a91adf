"""What sets the smallest budget, on steps worked out by hand, and how it is reported."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from planner.cli.wall_report import print_wall
from planner.ilp import solver
from planner.ilp.deadline import SolverName
from planner.plan.plan import Boundary
from planner.problem.problem import Problem, problem_of
from planner.smallest_budget import (
    BudgetWall,
    HeldStorage,
    Stays,
    UnmetBudgetError,
    Widest,
    budget_wall,
    check_budget,
    widest_set,
)
from planner.solving import solve
from profiles.schema.profile import LeftOut, Profile, StorageKind
from profiles.schema.profile_file import write_profile
from runtime.cli import main
from tests.support.planning.strategies import profiles
from tests.support.planning.toys import activation, fixed, gradient, resident, sandwich, toy


def problem(
    profile: Profile,
    *,
    min_size_bytes: int = 1,
    host_budget_bytes: int | None = None,
    boundary: Boundary = Boundary.PERIODIC,
) -> Problem:
    return problem_of(
        profile,
        budget_bytes=1,
        link=profile.link,
        host_budget_bytes=host_budget_bytes,
        min_size_bytes=min_size_bytes,
        boundary=boundary,
    )


def wall_of(profile: Profile, posed: Problem | None = None) -> BudgetWall:
    posed = posed or problem(profile)
    return budget_wall(profile, posed, widest_set(posed, SolverName.HIGHS).chosen)


def stays(wall: BudgetWall) -> dict[str, Stays]:
    return {held.name: held.stays for held in wall.held}


def test_every_reason_by_hand() -> None:
    storages = [
        activation("pack:idle", 64, 0, 4),
        activation("pack:used", 32, 1, 2, shown_at=3),
        activation("pack:late", 16, 1, 4, shown_at=4),
        activation("pack:small", 1, 0, 4, shown_at=2),
        activation("pack:kept", 8, 0, released_op=4, shown_at=5),
        fixed("op:mapped", 4, 1, 4, left_out=LeftOut.NOT_RESIZABLE),
        fixed("op:bucket", 5, 1, 4, left_out=LeftOut.EXCHANGED),
        fixed("op:work", 100, 2),
        fixed("op:lost", 6, 1, 4),
    ]
    profile = toy(*[10.0] * 5, storages=storages, overheads_bytes=[0, 0, 7, 0, 0, 0])
    wall = wall_of(profile, problem(profile, min_size_bytes=2))
    assert stays(wall) == {
        "op:work": Stays.IN_USE,
        "pack:used": Stays.IN_USE,
        "pack:late": Stays.NO_ANCHOR,
        "pack:kept": Stays.KEPT,
        "": Stays.BEYOND,
        "op:lost": Stays.NEVER_SHOWN,
        "op:bucket": Stays.EXCHANGED,
        "op:mapped": Stays.NOT_RESIZABLE,
        "pack:small": Stays.TOO_SMALL,
    }
    assert (wall.slot, wall.op, wall.module, wall.anchor) == (2, "op2", "m2", "anchor:2")
    assert [held.size_bytes for held in wall.held] == [100, 32, 16, 8, 7, 6, 5, 4, 1]
    assert wall.smallest_budget_bytes == 179
    assert list(wall.bytes_by_reason.items())[:2] == [(Stays.IN_USE, 132), (Stays.NO_ANCHOR, 16)]
    # Slot 4 has all but the work, what was used up in slot 2, and its overhead.
    assert wall.next_bytes == 64 + 16 + 1 + 8 + 4 + 5 + 6


def test_two_ops_of_one_slot_have_no_anchor_between_them() -> None:
    # Slot 1 holds ops 1 and 2; the second needs more, and cannot let go of what the first used.
    storages = [activation("pack:x", 10, 0, 1, 3), fixed("op:work", 50, 2)]
    wall = wall_of(toy(1.0, 1.0, 1.0, ops=[1, 2, 1], storages=storages))
    assert wall.op == "op2"
    assert stays(wall) == {"op:work": Stays.IN_USE, "pack:x": Stays.NO_ANCHOR}


def test_the_op_is_the_one_that_needs_most_not_its_namesake() -> None:
    storages = [fixed("op:little", 5, 1), fixed("op:much", 50, 2)]
    profile = toy(1.0, 1.0, 1.0, ops=[1, 2, 1], storages=storages)
    ops = [
        op.model_copy(update={"name": "aten.add", "module": f"m.{op.name}"}) for op in profile.ops
    ]
    assert wall_of(profile.model_copy(update={"ops": tuple(ops)})).module == "m.op2"


def test_what_finds_no_room_on_the_host_is_told() -> None:
    storages = [
        activation("pack:0", 60, 0, 4),
        activation("pack:1", 40, 1, 3),
        fixed("op:2", 50, 2),
    ]
    profile = toy(*[10.0] * 5, storages=storages)
    # The host has room for either; slot 2 needs 90 without the larger one.
    wall = wall_of(profile, problem(profile, host_budget_bytes=60))
    assert stays(wall) == {"op:2": Stays.IN_USE, "pack:1": Stays.HOST_BUDGET}
    assert wall.smallest_budget_bytes == 90


@pytest.mark.parametrize(
    ("boundary", "there"),
    [
        (Boundary.RESIDENT, {"parameter:w", "grad:w"}),
        # Replay finds the parameter by name; a gradient that the next step makes anew it does not.
        (Boundary.PERIODIC, {"grad:w"}),
    ],
)
def test_what_must_be_there_between_two_steps(boundary: Boundary, there: set[str]) -> None:
    storages = [resident("parameter:w", 30, 1), gradient("grad:w", 20, 0)]
    profile = toy(1.0, 1.0, storages=storages, overheads_bytes=[0, 0, 100])
    wall = wall_of(profile, problem(profile, boundary=boundary))
    assert (wall.slot, wall.op) == (2, "")
    assert stays(wall) == {"": Stays.BEYOND, **dict.fromkeys(there, Stays.BOUNDARY)}


def test_a_slot_without_ops_holds_what_lives_across_it() -> None:
    storages = [activation("pack:0", 10, 0, 1, shown_at=2)]
    overheads_bytes = [0, 90, 0, 0]
    profile = toy(1.0, 1.0, 1.0, ops=[1, 0, 1], storages=storages, overheads_bytes=overheads_bytes)
    wall = wall_of(profile)
    assert wall.place == "what lives across it in slot 1 (anchor:1)"
    assert stays(wall) == {"": Stays.BEYOND, "pack:0": Stays.NO_ANCHOR}


@settings(max_examples=40)
@given(profile=profiles)
def test_what_is_held_adds_up_to_the_smallest_budget(profile: Profile) -> None:
    for boundary in Boundary:
        posed = problem(profile, boundary=boundary)
        wall = wall_of(profile, posed)
        assert sum(held.size_bytes for held in wall.held) == wall.smallest_budget_bytes
        assert wall.smallest_budget_bytes == posed.least_budget_bytes(posed.whole_set)
        assert wall.next_bytes <= wall.smallest_budget_bytes
        # Without a host budget, whatever is idle is away.
        assert Stays.HOST_BUDGET not in wall.bytes_by_reason


def test_a_budget_that_cannot_be_met_carries_its_wall() -> None:
    with pytest.raises(UnmetBudgetError, match=r"set by op2 in slot 2 \(anchor:2") as refused:
        solve(sandwich(), budget_bytes=90)
    assert refused.value.wall.smallest_budget_bytes == refused.value.smallest_budget_bytes == 100
    assert stays(refused.value.wall) == {"op:2": Stays.IN_USE}


def test_only_what_is_proven_is_called_the_smallest() -> None:
    profile = sandwich()
    posed = problem(profile)
    for is_proven, met in ((True, "the smallest that can"), (False, "one that can")):
        with pytest.raises(UnmetBudgetError, match=f"cannot be met: {met} is 100 bytes"):
            check_budget(posed, Widest(posed.whole_set, is_proven), profile)


def test_a_solver_stopped_with_a_set_has_proven_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    solve_model = solver.solve_model

    def stopped(*args: Any, **settings: Any) -> solver.Solved:
        return replace(solve_model(*args, **settings), outcome=solver.Outcome.FOUND)

    storages = [activation("pack:0", 60, 0, 4), activation("pack:1", 40, 1, 3)]
    profile = toy(*[10.0] * 5, storages=[*storages, fixed("op:2", 50, 2)])
    posed = problem(profile, host_budget_bytes=60)
    assert widest_set(posed, SolverName.HIGHS).is_proven
    monkeypatch.setattr(solver, "solve_model", stopped)
    assert not widest_set(posed, SolverName.HIGHS).is_proven


# The command


@pytest.mark.usefixtures("wide_tables")
def test_solve_explains_on_stdout_what_it_says_in_one_line_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storages = [
        *(activation(f"pack:{i}", 20 + i, 0, 4, shown_at=1 + i) for i in range(2)),
        *(fixed(f"op:{i}", 100 - i, 2) for i in range(9)),
    ]
    write_profile(toy(*[10.0] * 5, storages=storages), tmp_path / "toy.profile.json")
    words = ("--budget", "10", "--min-size", "21", "-o", str(tmp_path / "toy.plan.json"))
    assert main(["solve", str(tmp_path / "toy.profile.json"), *words]) == 2
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if not line.endswith(" ...")]
    assert len(lines) == 1
    assert lines[0].startswith("plan: budget 10 bytes cannot be met: the smallest that can is 884 ")
    assert re.search(r"op:0 +│ temporary +│ +│ +100 B │ in use by this op", printed.out)
    assert re.search(r"2 others +│ +│ +│ +112 B │", printed.out)
    assert re.search(r"in use by this op +│ +9 │ +864 B │ less work in this op", printed.out)
    small = r"smaller than the minimum size \(21 B\) +│ +1 │ +20 B │ a smaller --min-size"
    assert re.search(small, printed.out)
    assert "If slot 2 needed nothing, the smallest budget would be 41 bytes." in printed.out
    assert not (tmp_path / "toy.plan.json").exists()


def wall(op: str, anchor: str, *reasons: Stays) -> BudgetWall:
    held = [
        HeldStorage(
            name=f"s{i}", kind=StorageKind.PARAMETER, module="", size_bytes=10, stays=reason
        )
        for i, reason in enumerate(reasons)
    ]
    return BudgetWall(
        slot=7,
        anchor=anchor,
        op=op,
        module="",
        smallest_budget_bytes=100,
        next_bytes=90,
        min_size_bytes=1,
        held=tuple(held),
    )


@pytest.mark.usefixtures("wide_tables")
@pytest.mark.parametrize(
    ("op", "anchor", "expected"),
    [
        ("aten._foreach_addcmul_.List", "update:w", "foreach=False and fused=False"),
        ("aten._fused_adamw_.default", "update:w", "foreach=False and fused=False"),
        ("aten.add_.Tensor", "optimizer:pre", "recording again"),
        ("aten.add_.Tensor", "update:w", "smaller modules"),
    ],
)
def test_what_an_optimizer_holds_is_lowered_in_its_own_way(
    op: str, anchor: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_wall(UnmetBudgetError("no", wall(op, anchor, Stays.NO_ANCHOR)))
    printed = capsys.readouterr()
    assert expected in printed.out
    assert printed.err == "plan: no\n"


def test_every_reason_says_what_would_lower_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_wall(UnmetBudgetError("no", wall("aten.add", "pre:a", *Stays)))
    printed = capsys.readouterr().out
    rows = re.findall(r"│ +1 │ +10 B │ (\S.*?) +│", printed)
    assert len(rows) == len(Stays)


def test_a_host_budget_is_named_as_what_would_lower_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storages = [
        activation("pack:0", 60, 0, 4),
        activation("pack:1", 40, 1, 3),
        fixed("op:2", 50, 2),
    ]
    write_profile(toy(*[10.0] * 5, storages=storages), tmp_path / "toy.profile.json")
    words = ("--budget", "80", "--host-budget", "60", "-o", str(tmp_path / "toy.plan.json"))
    assert main(["solve", str(tmp_path / "toy.profile.json"), *words]) == 2
    printed = capsys.readouterr()
    assert "a larger host budget" in printed.err
    assert re.search(
        r"no room in the host budget +│ +1 │ +40 B │ a larger --host-budget", printed.out
    )
