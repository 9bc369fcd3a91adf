"""Whatever is wrong with the input: one line, exit code 2, no traceback, no file left behind."""

import signal
from pathlib import Path

import pytest

from planner.plan.plan import Proof
from planner.plan.plan_file import read_plan, write_plan
from planner.solving import solve
from profiles.schema.profile_file import write_profile
from runtime.cli import main
from tests.cli.conftest import Failure
from tests.support.commands import TRAINING, running
from tests.support.planning.toys import sandwich


def good_profile(folder: Path) -> Path:
    path = folder / "good.profile.json"
    write_profile(sandwich(), path)
    return path


def good_plan(folder: Path) -> Path:
    path = folder / "good.plan.json"
    write_plan(solve(sandwich(), budget_bytes=105), path)
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget", "lots"), "--budget is 'lots', expected a size above 0 such as 8GiB"),
        (("--budget", "0"), "--budget is '0', expected"),
        (("--budget", "-8GiB"), "--budget is '-8GiB', expected"),
        (("--budget", "8Gigs"), "there is no unit 'Gigs' here"),
        (("--budget", "1%"), "cannot be met: the smallest that can is 100 bytes"),
        (("--budget", "70%", "--host-budget", "x"), "--host-budget is 'x'"),
        (("--budget", "70%", "--host-budget", "-1"), "--host-budget is '-1', expected a size"),
        (("--budget", "70%", "--host-budget", "0.5"), "--host-budget is '0.5', expected a size"),
        (("--budget", "70%", "--host-budget", ""), "such as 8GiB, 512MB or 1.5e9 (bytes), or 0"),
        (
            ("--budget", "70%", "--without", "swap", "--host-budget", "50"),
            "--without swap leaves nothing to the host, and --host-budget is '50'",
        ),
        (("--budget", "70%", "--without", "swap"), "allow swaps, or make the step smaller"),
        (("--budget", "70%", "--min-size", "-1"), "--min-size is '-1'"),
        (("--budget", "70%", "--link", "pcie9"), "there is no link 'pcie9'. Links: cpu-"),
        (("--budget", "70%", "--d2h-bandwidth", "12GB"), "expected a rate above 0"),
        (
            ("--budget", "70%", "--link", "pcie3-x16", "--h2d-bandwidth", "1GB/s"),
            "--link pcie3-x16 sets the rates already",
        ),
        (("--budget", "70%", "--time-limit", "0"), "--time-limit is 0.0, expected seconds"),
        (("--budget", "70%", "--time-limit", "nan"), "--time-limit is nan, expected seconds"),
    ],
)
def test_an_impossible_quantity(
    tmp_path: Path, failure: Failure, options: tuple[str, ...], message: str
) -> None:
    output = tmp_path / "output.json"
    assert message in failure("solve", good_profile(tmp_path), "-o", output, *options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("banana",), "there is no workload 'banana'. Built in: unet3d"),
        (("nowhere.py:train",), "nowhere.py: there is no such file"),
        (("unet3d", "--set", "size"), "--set is 'size', expected KEY=VALUE"),
        (("unet3d", "--set", "size=7"), "unet3d: size is '7', expected a multiple of 16"),
        (("unet3d", "--set", "colour=red"), "unet3d has no setting 'colour'. Settings: size"),
        (("unet3d", "--seed", "99999999999"), "the seed is 99999999999, expected 0 to"),
        (("unet3d", "--link", "nvlink2"), "there is no link 'nvlink2'."),
    ],
)
def test_a_missing_workload_or_setting(
    tmp_path: Path, failure: Failure, words: tuple[str, ...], message: str
) -> None:
    assert message in failure("profile", *words, "-o", tmp_path / "output.json")


def test_a_plan_recorded_from_python_needs_its_workload_named(
    tmp_path: Path, failure: Failure
) -> None:
    path = good_plan(tmp_path)
    assert "Name it with --workload path/to/file.py:function" in failure("run", path)


def test_a_plan_for_another_model(tmp_path: Path, failure: Failure) -> None:
    path = good_plan(tmp_path)
    mine = tmp_path / "mine.py"
    mine.write_text(TRAINING)
    line = failure("run", path, "--workload", f"{mine}:train")
    assert "The plan is for another model: names, shapes" in line


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "cannot be written (it is a folder)"),
        ("missing/output.json", "cannot be written (No such file or directory)"),
        ("file.txt/output.json", "cannot be written (Not a directory)"),
    ],
)
def test_an_unwritable_output_is_reported_before_the_work(
    tmp_path: Path, failure: Failure, place: str, message: str
) -> None:
    profile, plan = good_profile(tmp_path), good_plan(tmp_path)
    (tmp_path / "file.txt").write_text("not a folder")
    (tmp_path / "mine.py").write_text("raise RuntimeError('this is the work')")
    output = tmp_path / place
    assert message in failure("profile", f"{tmp_path}/mine.py:train", "-o", output)
    assert message in failure("show", plan, "--png", output)
    # 1% cannot be met: the planner would say so if it were asked.
    assert message in failure("solve", profile, "--budget", "1%", "-o", output)


def test_what_is_read_is_not_written_over(tmp_path: Path, failure: Failure) -> None:
    profile, plan = good_profile(tmp_path), good_plan(tmp_path)
    before = [path.read_bytes() for path in (profile, plan)]
    lost = "this is what is read, and would be lost"
    assert lost in failure("solve", profile, "--budget", "60%", "-o", profile)
    assert lost in failure("sweep", profile, "--budgets", "60%", "-o", profile)
    assert lost in failure("trace", plan, "-o", tmp_path / "." / plan.name)
    assert lost in failure("report", plan, "-o", plan)
    assert lost in failure("show", plan, "--png", plan)
    assert [path.read_bytes() for path in (profile, plan)] == before


def test_an_older_file_survives_a_failure(tmp_path: Path, failure: Failure) -> None:
    output = good_plan(tmp_path)
    before = output.read_bytes()
    failure("solve", good_profile(tmp_path), "--budget", "1%", "-o", output)
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ("solve", "x.json", "-o", "y.json"),
        ("solve", "x.json", "--budget", "50%", "-o", "y.json", "--solver", "abacus"),
        ("profile",),
        ("profile", "unet3d", "-o", "y.json", "--steps", "0"),
        ("profile", "unet3d", "-o", "y.json", "--seed", "-1"),
        ("run", "x.json", "--steps", "1"),
        ("show", "x.json", "--top", "-1"),
        ("--colour",),
    ],
)
def test_a_wrong_option_is_a_usage_error(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    line = capsys.readouterr().err
    assert "Usage: plan" in line
    assert "Traceback" not in line


SLOW = """
import time

def train():
    print("building", flush=True)
    time.sleep(3600)
"""


def test_ctrl_c_ends_with_one_line_and_no_file(tmp_path: Path) -> None:
    mine, output = tmp_path / "mine.py", tmp_path / "output.json"
    mine.write_text(SLOW)
    words = ["profile", f"{mine}:train", "-o", str(output)]
    with running(*words) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "building\n"
        process.send_signal(signal.SIGINT)
        _, line = process.communicate()
    assert process.returncode == 130
    assert line.splitlines()[-1] == "plan: interrupted"
    assert "Traceback" not in line
    assert not output.exists()


def test_ctrl_c_while_planning_leaves_the_best_plan_so_far(tmp_path: Path) -> None:
    output = tmp_path / "some.plan.json"
    # However slow the machine is, its ILP begins in time, and takes more than half a minute.
    asked = ["library:resnet50-v100-16gb", "--budget", "30%", "--time-limit", "3600"]
    asked += ["--without", "recompute"]
    with running("solve", *asked, "-o", output) as process:
        assert process.stderr is not None
        while not process.stderr.readline().startswith("solving the ILP"):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        line, complaints = process.communicate()
    assert process.returncode == 0
    assert "ending with the best plan so far" in complaints
    assert "Traceback" not in complaints
    plan = read_plan(output)
    assert plan.certificate.proof is Proof.FEASIBLE
    assert plan.certificate.loose_bound_beyond_us > 0
    assert f"Wrote {output}" in line
