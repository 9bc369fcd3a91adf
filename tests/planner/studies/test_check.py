"""`plan check`: what a plan says of itself is derived again, and reported if it is another."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.ilp.deadline import SolverName
from planner.plan.plan import Boundary, BoundSource, Plan, Proof
from planner.plan.plan_file import read_unverified_plan
from planner.solving import solve
from planner.studies.check import Check, check_plan, check_plan_against
from profiles.hardware.links import link_named
from profiles.schema.errors import FileError, SolverError
from profiles.schema.profile import Profile, Provenance, StorageKind
from profiles.schema.profile_file import write_profile
from runtime.cli import main
from tests.support.planning.edited_files import Edit, content_of, write_edited
from tests.support.planning.one_swap import slow_plan
from tests.support.planning.rebuilt import (
    mixed_plan,
    one_of_each,
    rebuilt_sandwich,
    slow_sandwich,
)
from tests.support.planning.toys import sandwich, toy_link, transformer_like, unet_like


def edited(folder: Path, edit: Edit, plan: Plan | None = None) -> Path:
    return write_edited(plan or slow_plan(), edit, folder / "toy.plan.json")


def step_of_parts() -> Profile:
    """A step whose relaxation, which moves parts of storages, waits less than any plan."""
    return transformer_like(3, link=toy_link(0.2, 0.2))


def plan_of_it() -> Plan:
    """One that waits 576 us, as the ILP proves; the relaxation says 512."""
    return solve(step_of_parts(), budget_bytes=1075, min_size_bytes=1)


def checked(path: Path, profile: Profile | None = None) -> Check:
    plan = read_unverified_plan(path)
    return check_plan(plan) if profile is None else check_plan_against(plan, profile)


@pytest.mark.parametrize("solver", SolverName)
@pytest.mark.parametrize(
    ("profile", "budget_bytes"),
    [(sandwich(), 105), (unet_like(3), 2900), (transformer_like(4), 900)],
    ids=["sandwich", "unet", "transformer"],
)
def test_a_plan_passes_whichever_solver_checks_it(
    profile: Profile, budget_bytes: int, solver: SolverName
) -> None:
    plan = solve(profile, budget_bytes=budget_bytes, min_size_bytes=1)
    assert plan.certificate.bound_source is BoundSource.RELAXATION
    found = check_plan_against(plan, profile, solver=solver)
    assert found.mismatches == ()
    assert [figure.name for figure in found.figures] == [
        "peak_without_bytes",
        "peak_bytes",
        "d2h_bytes",
        "h2d_bytes",
        "compute_us",
        "recompute_us",
        "simulated_stall_us",
        "loose_bound_beyond_us",
        "bound_beyond_us",
    ]


@pytest.mark.parametrize("bound_us", [575.0, 540.0, 513.0])
def test_an_edited_bound_is_found_with_the_profile(tmp_path: Path, bound_us: float) -> None:
    path = edited(tmp_path, {"certificate.bound_beyond_us": bound_us}, plan_of_it())
    assert checked(path).mismatches == ()
    found = checked(path, step_of_parts())
    assert len(found.mismatches) == 1
    found_us = re.match(
        r"certificate.bound_beyond_us is (.*), expected (\S+) ", found.mismatches[0]
    )
    assert found_us is not None
    assert float(found_us[1]) == bound_us
    assert float(found_us[2]) == pytest.approx(576, rel=1e-4)


@pytest.mark.parametrize("bound_us", [513.0, 511.0, 0.0])
def test_an_edited_loose_bound_is_found_with_the_profile(tmp_path: Path, bound_us: float) -> None:
    path = edited(tmp_path, {"certificate.loose_bound_beyond_us": bound_us}, plan_of_it())
    assert checked(path).mismatches == ()
    found = checked(path, step_of_parts())
    assert len(found.mismatches) == 1
    expected = rf"certificate.loose_bound_beyond_us is {bound_us}, expected 511.99"
    assert re.match(expected, found.mismatches[0])


def test_a_plan_of_another_step_is_found() -> None:
    found = check_plan_against(slow_plan(), unet_like(2))
    assert len(found.mismatches) == 1
    assert found.mismatches[0].startswith("profile_fingerprint is ")


@pytest.mark.parametrize("budget_bytes", [1100, 10**6])
def test_a_bound_for_another_budget_is_found(tmp_path: Path, budget_bytes: int) -> None:
    profile = transformer_like(4)
    plan = solve(profile, budget_bytes=900, min_size_bytes=1, link=toy_link(0.5, 0.5))
    path = edited(tmp_path, {"budget_bytes": budget_bytes}, plan)
    found = checked(path, profile)
    differing = [figure.name for figure in found.figures if not figure.matches]
    assert differing == ["loose_bound_beyond_us", "bound_beyond_us"]


def test_a_bound_over_fewer_storages_than_move_is_found(tmp_path: Path) -> None:
    found = checked(edited(tmp_path, {"min_size_bytes": 51}), sandwich())
    assert found.mismatches == ("swaps[0] moves 50 bytes, expected at least 51 (min_size_bytes)",)


TAKEN_AS_IT_STANDS = {
    "created_by",
    "link.name",
    "link.provenance",
    "certificate.solver",
    "certificate.proof",
    "certificate.solve_seconds",
}
"""What no file can say; the names and kinds of links that are in no table."""
STILL_TRUE = {
    "link.both_bytes_per_us": "a joint rate at which both directions together never run",
    "min_size_bytes": "no storage is so small",
    "budget_bytes": "the plan is within it, and the same gaps are the least that meet it",
}


def leaves(content: Any, *place: str) -> Iterator[str]:
    """Every place in a file that holds a single value."""
    children = content.items() if isinstance(content, dict) else enumerate(content)
    for key, child in children:
        if isinstance(child, dict | list):
            yield from leaves(child, *place, str(key))
        else:
            yield ".".join((*place, str(key)))


def other(value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        members = next((tuple(kind) for kind in ENUMS if value in tuple(kind)), (f"{value}x",))
        return next(member for member in members if member != value)
    return 1 if value is None else value + 1


ENUMS = (Boundary, BoundSource, Proof, Provenance, SolverName, StorageKind)


def test_whatever_else_is_edited_is_found(tmp_path: Path) -> None:
    plan = plan_of_it()
    passed = set()
    for place in leaves(content_of(plan)):
        try:
            found = checked(edited(tmp_path, {place: other}, plan), step_of_parts())
        except FileError:
            continue
        if not found.mismatches:
            passed.add(place)
    assert passed == TAKEN_AS_IT_STANDS | STILL_TRUE.keys()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("d2h_bytes_per_us", 13000.0, 12900.0),
        ("latency_us", 0.0, 10.0),
        ("provenance", "measured", "nominal"),
    ],
)
def test_a_link_of_the_table_is_that_link(
    tmp_path: Path, field: str, value: object, expected: object
) -> None:
    plan = solve(sandwich(), budget_bytes=105, link=link_named("pcie3-x16"))
    assert check_plan_against(plan, sandwich()).mismatches == ()
    path = edited(tmp_path, {f"link.{field}": value}, plan)
    edited_plan = read_unverified_plan(path)
    # Where the link hides the copies no figure but its own shows it.
    assert check_plan_against(edited_plan, sandwich()).mismatches == (
        f"link.{field} is {getattr(edited_plan.link, field)!r}, link pcie3-x16 has "
        f"{getattr(plan.link, field)!r}",
    )
    assert getattr(plan.link, field) == expected


def test_a_bound_that_claims_nothing_needs_no_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = solve(sandwich(), budget_bytes=1000)
    assert plan.certificate.proof is Proof.NOT_NEEDED
    monkeypatch.setattr("planner.ilp.solver.relaxed_bound", None)
    found = check_plan_against(plan, sandwich())
    assert found.mismatches == ()
    assert found.figures[-1].source == "nothing was proved"


def test_an_unknown_solver_is_reported(tmp_path: Path) -> None:
    path = edited(tmp_path, {"certificate.solver": "gurobi"})
    expected = ("certificate.solver is 'gurobi', expected highs or cbc",)
    assert checked(path, sandwich()).mismatches == expected
    plan = read_unverified_plan(path)
    assert check_plan_against(plan, sandwich(), solver=SolverName.CBC).mismatches == ()


def test_a_relaxation_that_was_not_solved_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from planner.ilp.solver import NO_BOUND

    monkeypatch.setattr("planner.ilp.solver.relaxed_bound", lambda *_: NO_BOUND)
    with pytest.raises(SolverError, match="did not solve the relaxation within 9 s"):
        check_plan_against(slow_plan(), sandwich(), time_limit_s=9.0)


# The command


@pytest.fixture(name="profile_file")
def _profile_file(tmp_path: Path) -> Path:
    write_profile(sandwich(), tmp_path / "toy.profile.json.gz")
    return tmp_path / "toy.profile.json.gz"


@pytest.mark.usefixtures("wide_tables")
def test_the_command_prints_each_figure_beside_its_own(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edited(profile_file.parent, {})
    assert main(["check", str(path)]) == 0
    alone = capsys.readouterr().out
    assert re.search(r"peak_bytes +│ +100 \(100 B\) +│ +100 \(100 B\) +│ +walking .*│ +yes", alone)
    assert "bound_beyond_us" not in alone
    assert "take the profile: plan check PLAN PROFILE" in alone
    assert main(["check", str(path), str(profile_file)]) == 0
    both = capsys.readouterr().out
    assert re.search(r"bound_beyond_us .* solving the relaxation with highs +│ +yes", both)
    assert "Checked: every figure is what the files say.\n" in both
    assert both.splitlines()[-1].endswith("what the solver proved of its own model.")


def test_the_command_fails_on_a_mismatch_and_says_what_was_found_and_expected(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = edited(
        profile_file.parent,
        {"certificate.peak_bytes": 99, "certificate.simulated_stall_us": 0.0},
    )
    assert main(["check", str(path)]) == 1
    printed = capsys.readouterr()
    assert len(re.findall(r"│ NO +│", printed.out)) == 2
    assert "Checked" not in printed.out
    assert printed.err.splitlines() == [
        "plan: the check failed: certificate.peak_bytes is 99, expected 100 (walking the anchors)",
        "plan: the check failed: certificate.simulated_stall_us is 0.0, expected 8000.0 "
        "(simulating the copies)",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("{profile}",), "format is 'swapplan-profile', expected 'swapplan-plan'"),
        (("{plan}", "{plan}"), "format is 'swapplan-plan', expected 'swapplan-profile'"),
        (("no.plan.json",), "there is no such file"),
        (("{plan}", "library:unet"), "the library has no profile 'unet'"),
        (("{plan}", "--time-limit", "0"), "expected seconds above 0"),
    ],
)
def test_bad_input_is_no_mismatch(
    profile_file: Path,
    words: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = {"profile": profile_file, "plan": edited(profile_file.parent, {})}
    assert main(["check", *(word.format(**files) for word in words)]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.usefixtures("wide_tables")
def test_a_profile_of_the_library_goes_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, output = "library:resnet50-v100-16gb", str(tmp_path / "resnet.plan.json")
    assert main(["solve", name, "--budget", "101%", "-o", output]) == 0
    assert main(["check", output, name]) == 0
    assert "nothing was proved" in capsys.readouterr().out
    assert main(["check", output, "library:resnet50-v100-32gb"]) == 1
    assert "profile_fingerprint is" in capsys.readouterr().err


@pytest.mark.parametrize("solver", SolverName)
def test_a_plan_with_recipes_passes(solver: SolverName) -> None:
    assert check_plan_against(rebuilt_sandwich(), slow_sandwich()).mismatches == ()
    assert check_plan_against(mixed_plan(), one_of_each(), solver=solver).mismatches == ()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"rebuilds.0.ops.0.name": "op7"}, "rebuilds[0].ops[0].name is 'op7', the profile gives "),
        ({"rebuilds.0.ops.0.position": 1}, "rebuilds[0].ops[0].position is 1, the profile gives 0"),
        (
            {"rebuilds.0.ops": lambda ops: [*ops, {**ops[0], "op": 1, "slot": 1}]},
            "rebuilds[0].number of ops is 2, the profile gives 1",
        ),
        (
            {"rebuilds.0.drops.0.slot": 2, "slots.1.resident_bytes": 50},
            "rebuilds[0].drops[0].slot is 2, where no gap of storage 0 begins",
        ),
        (
            {
                "slots.4.recompute_us": 1100.0,
                "rebuilds.0.recompute_us": 1100.0,
                "certificate.recompute_us": 1100.0,
                "certificate.compute_us": 4900.0,
            },
            "rebuilds[0].recompute_us is 1100.0, the profile gives 1000.0",
        ),
        ({"slots.4.without_bytes": 60}, "slots[4].without_bytes is 60, the profile gives 50"),
        ({"slots.4.peak_op": "op7"}, "slots[4].peak_op is 'op7', the profile gives 'op"),
        ({"min_size_bytes": 51}, "rebuilds[0].drops[0] drops 50 bytes, expected at least 51 (min_"),
    ],
)
def test_recipes_that_are_not_the_profiles(tmp_path: Path, edit: Edit, message: str) -> None:
    found = checked(edited(tmp_path, edit, rebuilt_sandwich()), slow_sandwich())
    assert [mismatch[: len(message)] for mismatch in found.mismatches] == [message]


def test_what_cannot_be_made_again(tmp_path: Path) -> None:
    kept = sandwich().model_copy(update={"link": slow_sandwich().link})
    path = edited(tmp_path, {"profile_fingerprint": kept.fingerprint()}, rebuilt_sandwich())
    assert checked(path, kept).mismatches == (
        "rebuilds: what is dropped cannot all be made again, by the profile's ops",
    )


def test_bounds_are_on_plans_with_recipes(tmp_path: Path) -> None:
    path = edited(tmp_path, {"certificate.loose_bound_beyond_us": 900.0}, rebuilt_sandwich())
    (mismatch,) = checked(path, slow_sandwich()).mismatches
    assert mismatch.startswith("certificate.loose_bound_beyond_us is 900.0, expected 874.99")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"without": "recompute"}, "without is 'recompute', but the plan has rebuilds"),
        ({"without": "swap"}, "without is 'swap', but the plan has swaps"),
        ({"slots.4.resident_bytes": 100}, "slots[4].resident_bytes is 100, expected 150: 250 (wit"),
        ({"slots.5.recompute_us": 0.0}, "slots[5].recompute_us is 0.0, expected 10.0 from the re"),
    ],
)
def test_recipes_in_the_plan_alone(tmp_path: Path, edit: Edit, message: str) -> None:
    found = checked(edited(tmp_path, edit, mixed_plan())).mismatches
    assert found[0].startswith(message)
