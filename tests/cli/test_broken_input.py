"""Whatever is wrong with the input: one line, exit code 2, no traceback, no file left behind."""

import gzip
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.plan.plan import Plan, Proof, read_plan, write_plan
from planner.solving import solve
from profiles.schema.profile import Profile
from profiles.schema.profile_file import write_profile
from runtime.cli import main
from tests.cli.test_commands import TRAINING, sandwich

ROOT = Path(__file__).parents[2]

Json = dict[str, Any]
Refused = Callable[..., str]


def files_in(folder: Path) -> set[Path]:
    """Hidden ones too: a half-written file hides under another name."""
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail cleanly, and returns what it said."""

    def run(*words: str | Path, exit_code: int = 2) -> str:
        before = files_in(tmp_path)
        capsys.readouterr()
        assert main([str(word) for word in words]) == exit_code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        told = [line for line in captured.err.splitlines() if not line.endswith(" ...")]
        assert len(told) == 1, told
        assert told[0].startswith("plan: ")
        assert "Wrote" not in captured.out
        assert files_in(tmp_path) == before
        return told[0]

    return run


def good_profile(folder: Path) -> Path:
    path = folder / "good.profile.json"
    write_profile(sandwich(), path)
    return path


def good_plan(folder: Path) -> Path:
    path = folder / "good.plan.json"
    write_plan(solve(sandwich(), budget_bytes=105), path)
    return path


def edited(path: Path, edit: Callable[[Json], object]) -> Path:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


def shown_and_used(path: Path) -> list[tuple[str | Path, ...]]:
    """Every command that reads this kind of file."""
    output = path.with_name("output.json")
    if "profile" in path.name:
        return [("show", path), ("solve", path, "--budget", "70%", "-o", output)]
    return [("show", path), ("run", path)]


@pytest.mark.parametrize("make", [good_profile, good_plan])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON, or only part of it"),
        (b"[1, 2", "not JSON, or only part of it"),
        (b"[1, 2]", "'format'"),
        (b"null", "'format'"),
        (b'{"format": 7}', "'format'"),
        (b'{"weights": [1]}', "'format'"),
        (b'{"format": "onnx", "version": 1}', "format is 'onnx', expected 'swapplan-"),
        (b"\xff\xfe\x00junk", "not JSON"),
        (b"[" * 50_000, "not JSON"),
        (gzip.compress(b'{"format": "swapplan-profile"}' * 99, mtime=0)[:40], "end too early"),
        (b"\x1f\x8bno gzip at all, only its first bytes", "damaged"),
    ],
)
def test_a_foreign_or_damaged_file(
    tmp_path: Path, refused: Refused, make: Callable[[Path], Path], content: bytes, message: str
) -> None:
    path = make(tmp_path)
    path.write_bytes(content)
    show, use = shown_and_used(path)
    assert message in refused(*show)
    assert str(path) in refused(*use)


@pytest.mark.parametrize("make", [good_profile, good_plan])
def test_a_truncated_file(tmp_path: Path, refused: Refused, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path)
    whole = gzip.compress(path.read_bytes())
    for length in (3, 12, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        for words in shown_and_used(path):
            assert "damaged" in refused(*words)


@pytest.mark.parametrize(
    ("make", "version"), [(good_profile, Profile.VERSION), (good_plan, Plan.VERSION)]
)
def test_another_version(
    tmp_path: Path, refused: Refused, make: Callable[[Path], Path], version: int
) -> None:
    path = edited(make(tmp_path), lambda content: content.update(version=99))
    for words in shown_and_used(path):
        assert f"version is 99, this swapplan reads version {version}" in refused(*words)


@pytest.mark.parametrize("make", [good_profile, good_plan])
def test_no_file_or_a_folder(
    tmp_path: Path, refused: Refused, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path)
    path.unlink()
    for words in shown_and_used(path):
        assert "there is no such file" in refused(*words)
    path.mkdir()
    for words in shown_and_used(path):
        assert "cannot be read (Is a directory)" in refused(*words)


def test_a_plan_is_no_profile_and_a_profile_no_plan(tmp_path: Path, refused: Refused) -> None:
    output = tmp_path / "output.json"
    told = refused("solve", good_plan(tmp_path), "--budget", "70%", "-o", output)
    assert "format is 'swapplan-plan', expected 'swapplan-profile'" in told
    told = refused("run", good_profile(tmp_path))
    assert "format is 'swapplan-profile', expected 'swapplan-plan'" in told


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["storages"][0].update(size_bytes=-5), "storages[0].size_bytes is -5"),
        (lambda c: c["storages"][0].update(size_bytes="5"), "storages[0].size_bytes is '5'"),
        (lambda c: c["storages"][0].update(kind="pet"), "storages[0].kind is 'pet'"),
        (lambda c: c["slots"][1].update(duration_us=-1.0), "slots[1].duration_us is -1.0"),
        (lambda c: c["slots"][1].update(duration_us=float("nan")), "slots[1].duration_us"),
        (lambda c: c["slots"][1].update(shows=9), "slots[1].shows is 9, expected below 2"),
        (lambda c: c["slots"].pop(), "slots run from 'begin' to"),
        (lambda c: c["slots"][2].update(anchor="begin"), "two slots open at anchor 'begin'"),
        (lambda c: c["ops"][1].update(slot=99), "ops[1].slot is 99"),
        (lambda c: c["storages"][0].update(released_op=99), "storages[0] lives from op 0 to op 99"),
        (lambda c: c["storages"][0].update(id=4), "storages[0].id is 4, expected 0"),
        (lambda c: c["storages"][0]["uses"][0].update(op=99), "is used by op 99"),
        (lambda c: c.update(colour="red"), "colour is 'red'"),
        (lambda c: c.pop("link"), "link"),
        (lambda c: c["link"].update(d2h_bytes_per_us=0.0), "link.d2h_bytes_per_us is 0.0"),
    ],
)
def test_an_edited_profile(
    tmp_path: Path, refused: Refused, edit: Callable[[Json], object], message: str
) -> None:
    path = edited(good_profile(tmp_path), edit)
    for words in shown_and_used(path):
        told = refused(*words)
        assert message in told
        assert "make it again with 'plan profile'" in told


def second_swap(content: Json) -> None:
    content["swaps"].append(dict(content["swaps"][0]))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c["storages"][0].update(size_bytes=-5), "storages[0].size_bytes is -5"),
        (lambda c: c["swaps"][0].update(storage=7), "swaps[0].storage is 7"),
        (lambda c: c["swaps"][0].update(await_slot=99), "swaps[0].await_slot is 99"),
        (lambda c: c["swaps"][0].update(swap_out_slot=0), "swaps[0]"),
        (lambda c: c["swaps"][0].update(release_slot=4), "swaps[0]"),
        (lambda c: c["slots"][1].update(anchor="end"), "two slots open at anchor 'end'"),
        (second_swap, "swaps[1]"),
        (
            lambda c: c.update(budget_bytes=99),
            "holds 100 bytes under the plan, expected at most 99",
        ),
        (lambda c: c["slots"][2].update(resident_bytes=500), "slots[2] (anchor:2) holds 450 bytes"),
        (lambda c: c.update(host_pool_bytes=1), "host_pool_bytes"),
        (lambda c: c["certificate"].update(peak_bytes=1), "certificate.peak_bytes"),
        (lambda c: c["certificate"].update(simulated_stall_us=9e9), "simulated_stall_us"),
        (lambda c: c["certificate"].pop("proof"), "certificate.proof"),
    ],
)
def test_an_edited_plan(
    tmp_path: Path, refused: Refused, edit: Callable[[Json], object], message: str
) -> None:
    path = edited(good_plan(tmp_path), edit)
    for words in shown_and_used(path):
        told = refused(*words)
        assert message in told
        assert "make it again with 'plan solve'" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--budget", "lots"), "--budget is 'lots', expected a size above 0 such as 8GiB"),
        (("--budget", "0"), "--budget is '0', expected"),
        (("--budget", "-8GiB"), "--budget is '-8GiB', expected"),
        (("--budget", "8Gigs"), "there is no unit 'Gigs' here"),
        (("--budget", "1%"), "cannot be met: the smallest that can is 100 bytes"),
        (("--budget", "70%", "--host-budget", "x"), "--host-budget is 'x'"),
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
    tmp_path: Path, refused: Refused, options: tuple[str, ...], message: str
) -> None:
    output = tmp_path / "output.json"
    assert message in refused("solve", good_profile(tmp_path), "-o", output, *options)


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
    tmp_path: Path, refused: Refused, words: tuple[str, ...], message: str
) -> None:
    assert message in refused("profile", *words, "-o", tmp_path / "output.json")


def test_a_plan_recorded_from_python_needs_its_workload_named(
    tmp_path: Path, refused: Refused
) -> None:
    path = good_plan(tmp_path)
    assert "Name it with --workload path/to/file.py:function" in refused("run", path)


def test_a_plan_for_another_model(tmp_path: Path, refused: Refused) -> None:
    path = good_plan(tmp_path)
    mine = tmp_path / "mine.py"
    mine.write_text(TRAINING)
    told = refused("run", path, "--workload", f"{mine}:train")
    assert "The plan is for another model: names, shapes" in told


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "cannot be written (it is a folder)"),
        ("missing/output.json", "cannot be written (No such file or directory)"),
        ("file.txt/output.json", "cannot be written (Not a directory)"),
    ],
)
def test_an_unwritable_output_is_told_before_the_work(
    tmp_path: Path, refused: Refused, place: str, message: str
) -> None:
    profile, plan = good_profile(tmp_path), good_plan(tmp_path)
    (tmp_path / "file.txt").write_text("not a folder")
    (tmp_path / "mine.py").write_text("raise RuntimeError('this is the work')")
    output = tmp_path / place
    assert message in refused("profile", f"{tmp_path}/mine.py:train", "-o", output)
    assert message in refused("show", plan, "--png", output)
    # 1% cannot be met: the planner would say so if it were asked.
    assert message in refused("solve", profile, "--budget", "1%", "-o", output)


def test_what_is_read_is_not_written_over(tmp_path: Path, refused: Refused) -> None:
    profile, plan = good_profile(tmp_path), good_plan(tmp_path)
    before = [path.read_bytes() for path in (profile, plan)]
    lost = "this is what is read, and would be lost"
    assert lost in refused("solve", profile, "--budget", "60%", "-o", profile)
    assert lost in refused("sweep", profile, "--budgets", "60%", "-o", profile)
    assert lost in refused("trace", plan, "-o", tmp_path / "." / plan.name)
    assert lost in refused("report", plan, "-o", plan)
    assert lost in refused("show", plan, "--png", plan)
    assert [path.read_bytes() for path in (profile, plan)] == before


def test_an_older_file_survives_a_failure(tmp_path: Path, refused: Refused) -> None:
    output = tmp_path / "output.json"
    output.write_text("the older file")
    refused("solve", good_profile(tmp_path), "--budget", "1%", "-o", output)
    assert output.read_text() == "the older file"


@pytest.mark.parametrize(
    "words",
    [
        ("solve", "x.json", "-o", "y.json"),
        ("solve", "x.json", "--budget", "50%"),
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
    told = capsys.readouterr().err
    assert "Usage: plan" in told
    assert "Traceback" not in told


SLOW = """
import signal
import time

# Where tests run in the background the shell has it ignored, and whatever they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)

def train():
    print("building", flush=True)
    time.sleep(3600)
"""


def test_ctrl_c_ends_with_one_line_and_no_file(tmp_path: Path) -> None:
    mine, output = tmp_path / "mine.py", tmp_path / "output.json"
    mine.write_text(SLOW)
    words = ["profile", f"{mine}:train", "-o", str(output)]
    with subprocess.Popen(
        [sys.executable, "-m", "runtime.cli", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "building\n"
            process.send_signal(signal.SIGINT)
            _, told = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 130
    assert told.splitlines()[-1] == "plan: interrupted"
    assert "Traceback" not in told
    assert not output.exists()


PLANNING = """
import signal
import sys

from runtime.cli.app import main
from planner.plan.plan import Proof, read_plan

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_while_planning_leaves_the_best_plan_so_far(tmp_path: Path) -> None:
    output = tmp_path / "some.plan.json"
    # However slow the machine is, its ILP begins in time, and takes more than half a minute.
    asked = ["library:resnet50-v100-16gb", "--budget", "30%", "--time-limit", "3600"]
    words = ["solve", *asked, "-o", str(output)]
    with subprocess.Popen(
        [sys.executable, "-c", PLANNING, *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            while not process.stderr.readline().startswith("solving the ILP"):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            told, complaints = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 0
    assert "ending with the best plan so far" in complaints
    assert "Traceback" not in complaints
    plan = read_plan(output)
    assert plan.certificate.proof is Proof.FEASIBLE
    assert plan.certificate.loose_bound_stall_us > 0
    assert f"Wrote {output}" in told
