"""The commands, called in process, on toys."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib import image

from planner.plan.plan import Proof, Without
from planner.plan.plan_file import read_plan
from planner.problem.settings import WITHOUT_BY_DEFAULT
from profiles.hardware.links import EMULATED, LINKS
from profiles.schema.files import CREATED_BY
from profiles.schema.profile import StorageKind, found_name
from profiles.schema.profile_file import read_profile, write_profile
from runtime.cli import main
from runtime.proof.report import ProofReport
from tests.support.commands import TRAINING, solved
from tests.support.planning.invariants import check_plan
from tests.support.planning.rebuilt import slow_sandwich
from tests.support.planning.toys import activation, fixed, gradient, toy, unet_like
from tests.support.training.fixed_times import give_fixed_times


@pytest.mark.usefixtures("wide_tables")
def test_solve_writes_a_plan_and_prints_its_certificate(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = solved(profile_file, "--budget", "70%")
    check_plan(plan, read_profile(profile_file))
    assert plan.budget_bytes == 105
    assert [(swap.storage, swap.release_slot) for swap in plan.swaps] == [(0, 2)]
    printed = capsys.readouterr().out
    for line in (
        r"budget .* 105 B \(70.0% of the peak\) .* given",
        "peak without the plan .* 150 B .* measured",
        "peak with the plan .* 100 B .* simulated",
        "moved to the host per step .* 50 B .* simulated",
        "moved back per step .* 50 B .* simulated",
        "step with the plan .* 5.0 ms .* simulated",
        "stall .* 0 us .* simulated",
        r"recompute \+ stall, at least .* 0 us .* bound: LP relaxation",
        "gap to the bound .* 0.00% of the step",
        "solver .* highs",
        "proof for its model .* optimal",
        "planning took .* s .* measured",
    ):
        assert re.search(line, printed), line
    assert f"Wrote {profile_file.with_name('toy.plan.json')}\n" in printed


@pytest.mark.parametrize(
    ("budget", "budget_bytes"), [("100", 100), ("0.1kB", 100), ("70%", 105), ("1.1e2", 110)]
)
def test_a_budget_goes_in_as_people_write_it(
    profile_file: Path, budget: str, budget_bytes: int
) -> None:
    assert solved(profile_file, "--budget", budget).budget_bytes == budget_bytes


def test_a_step_that_fits_gets_an_empty_plan(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = solved(profile_file, "--budget", "1MiB")
    assert plan.swaps == ()
    assert plan.certificate.proof is Proof.NOT_NEEDED
    assert "fits within the budget without swapping; the plan is empty" in capsys.readouterr().out


def test_an_impossible_budget_names_the_smallest_and_its_op(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = profile_file.with_name("none.json")
    assert main(["solve", str(profile_file), "--budget", "60%", "-o", str(output)]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("plan: budget 90 bytes cannot be met")
    assert "100 bytes" in message
    assert "op2" in message
    assert not output.exists()


def test_solve_says_below_which_size_storages_stay_and_what_that_leaves_out(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A thousandth of the peak is less than a byte: nothing is left out.
    solved(profile_file, "--budget", "70%")
    by_default = "Storages below 1 B stay (by default, --min-size sets another size): while idle"
    assert f"{by_default} they hold at most 0 B of the budget at once, 0.00%." in (
        capsys.readouterr().out
    )
    # One storage of 50 B is idle and can be moved.
    solved(profile_file, "--budget", "70%", "--min-size", "50")
    asked = "Storages below 50 B stay (asked for): while idle"
    assert f"{asked} they hold at most 0 B of the budget at once, 0.00%." in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(("size_bytes", "is_told"), [(5, False), (6, True)])
def test_solve_says_what_gradients_hold_that_the_next_step_drops_unused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size_bytes: int, is_told: bool
) -> None:
    # g is made in slot 3, and what the step finds under its name is dropped before its first op.
    found = replace(
        fixed(found_name("grad:g"), size_bytes, 0),
        kind=StorageKind.GRADIENT,
        uses=(),
        writes=frozenset(),
        allocated_op=None,
        released_op=-1,
        lingers_slots=1,
    )
    step = [activation("pack:x", 50, 0, 4), fixed("w", 100, 2), gradient("grad:g", size_bytes, 3)]
    path = tmp_path / "toy.profile.json.gz"
    write_profile(toy(*[1000] * 5, storages=[*step, found]), path)
    solved(path, "--budget", "115")
    said = f"Gradients of {size_bytes} B are kept until the next step drops them unused"
    assert (said in " ".join(capsys.readouterr().out.split())) is is_told


def test_cbc_solves_too(profile_file: Path) -> None:
    plan = solved(profile_file, "--budget", "70%", "--solver", "cbc")
    assert plan.certificate.solver == "cbc"
    check_plan(plan, read_profile(profile_file))


def test_the_link_is_the_profiles_unless_another_is_named(profile_file: Path) -> None:
    def link(*options: str) -> tuple[str, float, float]:
        found = solved(profile_file, "--budget", "70%", *options).link
        return found.name, found.d2h_bytes_per_us, found.h2d_bytes_per_us

    assert link() == ("toy", 1.0, 1.0)
    assert link("--link", "pcie3-x16") == ("pcie3-x16", 12_900.0, 12_350.0)
    both = ("--d2h-bandwidth", "12GB/s", "--h2d-bandwidth", "10 GB/s")
    assert link(*both) == ("custom", 12_000.0, 10_000.0)
    assert link("--h2d-bandwidth", "9GB/s") == ("custom", 9_000.0, 9_000.0)


def test_a_slow_link_shows_as_stall(profile_file: Path) -> None:
    plan = solved(profile_file, "--budget", "70%", "--d2h-bandwidth", "10kB/s")
    # 50 bytes at 0.01 bytes/us take 5 ms each way; slots 1 and 3 hide 1 ms each.
    assert plan.certificate.simulated_stall_us == pytest.approx(8000.0)
    assert 0 < plan.certificate.bound_beyond_us <= 8000.0


def test_a_host_budget_is_kept(profile_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert solved(profile_file, "--budget", "70%", "--host-budget", "50").host_pool_bytes == 50
    output = profile_file.with_name("none.json")
    words = ["solve", str(profile_file), "--budget", "70%", "-o", str(output)]
    assert main([*words, "--host-budget", "49"]) == 2
    assert not output.exists()
    assert capsys.readouterr().err.splitlines()[-1].startswith("plan: ")


def test_what_is_not_to_be_used_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "toy.profile.json"
    write_profile(slow_sandwich(), path)
    rebuilt = solved(path, "--budget", "105", "--without", "swap")
    assert (rebuilt.without, rebuilt.swaps, rebuilt.host_budget_bytes) == (Without.SWAP, (), 0)
    assert rebuilt.rebuilds
    printed = capsys.readouterr().out
    assert "Step 6.0 ms (simulated): 5.0 ms compute + 1.0 ms recompute + 0 us stall; " in printed
    assert "; recompute + stall 1.0 ms, at least 1000 us (bound).\n" in printed
    again = solved(path, "--budget", "105", "--host-budget", "0B")
    assert (again.without, again.rebuilds) == (Without.SWAP, rebuilt.rebuilds)
    assert solved(path, "--budget", "105", "--without", "nothing").rebuilds == rebuilt.rebuilds
    swapped = solved(path, "--budget", "105", "--without", "recompute")
    assert solved(path, "--budget", "105").without is WITHOUT_BY_DEFAULT
    assert (swapped.without, swapped.rebuilds) == (Without.RECOMPUTE, ())


def test_show_lists_a_profile(profile_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(profile_file)]) == 0
    printed = capsys.readouterr().out
    assert "pack:0" in printed
    assert "150 B" in printed
    # The workspace is left out, with its bytes.
    assert "no anchor shows it" in printed
    assert "100 B" in printed


@pytest.mark.usefixtures("wide_tables")
def test_show_lists_swaps_with_anchors_and_slack(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = solved(profile_file, "--budget", "70%")
    capsys.readouterr()
    assert main(["show", str(profile_file.with_name("toy.plan.json"))]) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if "pack:0" in line)
    for slot in (plan.swaps[0].swap_out_slot, plan.swaps[0].release_slot):
        assert f"anchor:{slot}" in row
    assert "slack in ms, simulated" in printed


@pytest.mark.parametrize("kind", ["profile", "plan"])
def test_show_draws_memory(profile_file: Path, tmp_path: Path, kind: str) -> None:
    file = profile_file
    if kind == "plan":
        solved(profile_file, "--budget", "70%")
        file = profile_file.with_name("toy.plan.json")
    picture = tmp_path / "memory.png"
    assert main(["show", str(file), "--png", str(picture)]) == 0
    pixels = image.imread(picture)
    assert pixels.shape[0] > 400
    # Something is drawn on the white.
    assert pixels.min() < 0.5 < pixels.max()


def test_show_top_limits_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "unet.json"
    write_profile(unet_like(3), path)
    assert main(["show", str(path), "--top", "2"]) == 0
    assert "Largest storages (2 of " in capsys.readouterr().out


def test_workloads_and_links_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["workloads"]) == 0
    printed = capsys.readouterr().out
    assert "unet3d" in printed
    assert "size" in printed
    assert main(["links"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in LINKS)
    assert "nominal" in printed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{CREATED_BY}\n"


def test_a_mistyped_command_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["porfile"]) == 2
    assert "Did you mean 'profile'?" in capsys.readouterr().err


@pytest.mark.usefixtures("wide_tables")
def test_profile_solve_and_run_a_users_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(TRAINING)
    profile, plan = tmp_path / "mine.profile.json.gz", tmp_path / "mine.plan.json"
    words = ["profile", f"{tmp_path}/mine.py:train", "--set", "width=32", "--seed", "5"]
    assert main([*words, "--warmup", "1", "--steps", "1", "-o", str(profile)]) == 0
    recorded = read_profile(profile)
    assert recorded.link == EMULATED
    assert recorded.workload.settings == (("width", "32"),)
    assert (recorded.workload.seed, recorded.timed_steps) == (5, 1)
    assert recorded.warmup_steps >= 1
    give_fixed_times(profile)
    assert main(["solve", str(profile), "--budget", "90%", "-o", str(plan)]) == 0
    assert read_plan(plan).swaps
    capsys.readouterr()
    assert main(["run", str(plan), "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "Proof: passed" in printed
    assert printed.count("bit-equal") == 2
    assert "out of memory" in printed


def report(**changes: object) -> ProofReport:
    """A proof that passed, but for the changes."""
    figures: dict[str, object] = {
        "losses": (1.0, 0.5),
        "losses_equal": True,
        "tensors_equal": True,
        "tensors_compared": 7,
        "budget_bytes": 105,
        "peak_without_bytes": 150,
        "peak_with_bytes": 100,
        "peak_planned_bytes": 100,
        "out_of_memory_without_plan": True,
        "out_of_memory_message": "out of memory",
        "step_without_us": (5000.0,),
        "step_with_us": (5100.0,),
        "profiled_step_us": 5000.0,
        "simulated_step_us": 5000.0,
        "d2h_bytes": 50,
        "h2d_bytes": 50,
        "rebuilt_bytes": 0,
        "ops_run_again": 0,
        "rebuild_us": 0.0,
        "recompute_us": 0.0,
        "capture_us": 0.0,
        "repeats": True,
        "stall_us": 0.0,
        "simulated_stall_us": 0.0,
        "overrun_us": 0.0,
        "misses": 0,
        "fallbacks": 0,
        "shortcuts": 0,
        "memory_differences": (),
        "memory_compared_steps": 2,
        "warnings": (),
        "resident_growth_without_bytes": 0,
        "resident_growth_with_bytes": 0,
        "host_pool_bytes": 50,
        "summary": "swapplan: 6 steps.",
    }
    return ProofReport(**{**figures, **changes})  # type: ignore[arg-type]


@pytest.mark.usefixtures("wide_tables")
@pytest.mark.parametrize(
    ("changes", "failures"),
    [
        ({}, []),
        ({"losses_equal": False}, ["the losses differ"]),
        (
            {"tensors_equal": False, "peak_with_bytes": 106},
            [
                "parameters, gradients, buffers or optimizer states differ",
                "the peak was 106 B, above the budget of 105 B",
            ],
        ),
        ({"fallbacks": 2, "warnings": ("late",)}, ["2 steps fell back to resident"]),
        (
            {"shortcuts": 1},
            [
                "every step skipped an update, so it is another than the recorded one: record it "
                "again with 'plan profile'"
            ],
        ),
        ({"shortcuts": 1, "losses": (1.0, 0.7, 0.5)}, []),
    ],
)
def test_run_exits_with_1_when_the_proof_fails(
    profile_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    failures: list[str],
) -> None:
    solved(profile_file, "--budget", "70%")
    monkeypatch.setattr("runtime.proof.proof.prove", lambda *_, **__: report(**changes))
    words = ["run", str(profile_file.with_name("toy.plan.json")), "--workload", "unet3d"]
    assert main(words) == (1 if failures else 0)
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("plan: ")]
    assert lines == [f"plan: the proof failed: {failure}" for failure in failures]
    assert f"Proof: {'FAILED' if failures else 'passed'}" in captured.out
    assert "\nswapplan: 6 steps.\n" in captured.out
    # A figure that could not be sampled is not shown as zero.
    assert "not sampled on this system" in captured.out
