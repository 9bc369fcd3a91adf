"""What runs on a GPU, run on the CPU in a tiny form: every code path, and no claim about time."""

import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from profiles.hardware.accelerators import accelerator_named
from profiles.hooks.workload import Workload
from profiles.workloads.build import check as check_source
from profiles.workloads.catalog import WORKLOADS
from tests.benchmarks import bench_gpu
from tests.benchmarks.bench_gpu import Effort, bench, largest
from tests.benchmarks.bench_kernels import DeviceRate
from tests.gpu import check
from tests.gpu.bench_device import BenchEmulator
from tests.gpu.cases import CHECKED, COMPARED, TINY
from tests.gpu.checkpointing import BLOCKS, checkpoint_blocks
from tests.gpu.estimates import accelerator_at_hand, compare_estimates
from tests.gpu.fixed_window import SMALLEST_BYTES, WINDOW, FixedWindow
from tests.gpu.methods import Method
from tests.gpu.results import Results
from tests.support.training import models
from tests.support.training.recorded import assert_same, snapshot

[GPT2] = (case for case in TINY if case.reference == "gpt2")
SMALLEST = replace(GPT2, values=GPT2.values[:1])


@pytest.fixture(autouse=True)
def _quick_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here depends on how good a plan is."""
    monkeypatch.setattr("tests.gpu.methods.SOLVE_SECONDS", 1.0)


def read(folder: Path, name: str) -> tuple[dict[str, str], list[dict[str, object]]]:
    content = json.loads((folder / name).read_text())
    return content, content["records"]


def test_every_method_is_compared(tmp_path: Path) -> None:
    folder = bench(BenchEmulator(), Effort(cases=(SMALLEST,), timed_steps=1), tmp_path)
    assert folder.parent == tmp_path
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-cpu-an-emulated-accelerator", folder.name)
    about, rows = read(folder, "bench.json")
    assert about["torch"] == torch.__version__
    assert [row["method"] for row in rows] == [method.value for method in Method]
    by_method = {row["method"]: row for row in rows}
    nothing, plan = by_method["nothing"], by_method["swapplan"]
    assert not nothing["within_budget"]
    assert "out of memory" in str(nothing["why_not"])
    assert nothing["largest"] is None
    assert plan["within_budget"]
    assert plan["largest"] == SMALLEST.values[0]
    assert int(str(plan["peak_bytes"])) <= int(str(plan["budget_bytes"]))
    table = (folder / "bench.md").read_text()
    assert all(f"| {method.value} |" in table for method in Method)


def test_training_is_checked_and_written(tmp_path: Path) -> None:
    limited = BenchEmulator()
    results = Results(limited, tmp_path)
    assert check.check_all(limited, (SMALLEST,), results, timed_steps=1)
    _, [row] = read(results.folder, "training.json")
    assert row["repeats"]
    assert row["losses_equal"]
    assert row["tensors_equal"]
    assert row["enforced"]
    assert (row["fallbacks"], row["misses"], row["out_of_memory"]) == (0, 0, "")
    peak_bytes, simulated_bytes = int(str(row["peak_bytes"])), int(str(row["peak_simulated_bytes"]))
    assert peak_bytes >= simulated_bytes, "the first step may take the budget"
    assert "tensors bit-equal" in (results.folder / "training.md").read_text()


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        # Trained without a plan, once more, recorded, and trained with it.
        ((0, 0, 0, 1), "| DIFFERENT |"),
        ((0, 1, 0, 0), "| differ from run to run without a plan, too |"),
    ],
)
def test_a_training_that_differs_fails_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: tuple[int, ...], said: str
) -> None:
    left = iter(seeds)
    limited = BenchEmulator()
    build = limited.build
    monkeypatch.setattr(
        limited,
        "build",
        lambda source: build(source.model_copy(update={"seed": next(left)})),
    )
    results = Results(limited, tmp_path)
    assert not check.check_all(limited, (SMALLEST,), results, timed_steps=1)
    assert said in (results.folder / "training.md").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert check.main() == 0
    assert capsys.readouterr().out == "There is no GPU here: nothing was checked.\n"
    monkeypatch.setattr("sys.argv", ["bench_gpu"])
    bench_gpu.main()
    assert capsys.readouterr().out.startswith("There is no GPU here: nothing was compared.")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_begun_in_time_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    now_s, ran = [0.0], []

    def part(name: str, takes_s: float, right: bool) -> check.Part:
        def run() -> bool:
            now_s[0] += takes_s
            ran.append(name)
            return right

        return check.Part(name, run)

    parts = (part("first", 5.0, True), part("second", 6.0, True), part("third", 1.0, True))
    assert check.run_parts(parts, 20.0, lambda: now_s[0])
    assert not check.run_parts(parts, 10.0, lambda: now_s[0])
    assert ran == ["first", "second", "third", "first", "second"]
    assert capsys.readouterr().out.splitlines()[-1] == "Left out for want of time: third."
    assert not check.run_parts((part("wrong", 1.0, False),), 10.0, lambda: now_s[0])


def test_a_part_is_stopped_when_its_time_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    def forever() -> bool:
        while True:
            pass

    before = signal.getsignal(signal.SIGALRM)
    parts = (check.Part("endless", forever), check.Part("next", lambda: True))
    assert not check.run_parts(parts, 0.1, time.monotonic)
    stopped, left_out = capsys.readouterr().out.splitlines()
    assert stopped.startswith("endless: stopped for want of time, after ")
    assert left_out == "Left out for want of time: next."
    assert signal.getsignal(signal.SIGALRM) is before


def test_estimates_are_compared_with_recordings(tmp_path: Path) -> None:
    limited = BenchEmulator()
    results = Results(limited, tmp_path)
    assert accelerator_at_hand(limited) is None
    compare_estimates(limited, (SMALLEST,), accelerator_named("h200"), results)
    _, [step, *classes] = read(results.folder, "estimates.json")
    assert step["workload"] == SMALLEST.title
    assert {"matmul", "normalization"} <= {row["op_class"] for row in classes}
    assert sum(float(str(row["measured_us"])) for row in classes) > 0
    markdown = (results.folder / "estimates.md").read_text()
    assert "### Steps, estimated and measured" in markdown
    assert "| matmul |" in markdown


def test_the_kernels_table_has_the_best_grid() -> None:
    rate = DeviceRate(
        copy="one stretch",
        direction="D2H",
        size_bytes=4096,
        storages=1,
        engine_gb_per_s=2.0,
        kernel_gb_per_s={"1x256": 1.0, "16x1024": 3.0},
    )
    markdown = check.rates_table([rate]).markdown()
    assert markdown.endswith("| one stretch | D2H | 1 | 4096 | 2.00 | 3.00 | 16x1024 | 1.50 |")


def test_the_largest_that_trains_is_found_by_bisection() -> None:
    for fitting in range(8):
        asked: list[int] = []

        def trains(value: int, limit: int = fitting, asked: list[int] = asked) -> bool:
            asked.append(value)
            return value <= limit

        assert largest(range(1, 8), trains) == (fitting or None)
        assert len(asked) <= 3


@contextmanager
def nothing_around() -> Iterator[None]:
    yield


def trained(workload: Workload, window: FixedWindow | None, steps: int = 2) -> Workload:
    for _ in range(steps):
        with window or nothing_around():
            workload.step()
    return workload


def test_the_fixed_window_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    window = FixedWindow(torch.device("cpu"))
    waiting: list[int] = []
    let_go = window._let_go

    def watched(kept: int) -> None:
        let_go(kept)
        waiting.append(len(window._leaving))

    monkeypatch.setattr(window, "_let_go", watched)
    plain, workload = models.unet3d(), models.unet3d()
    assert_same(snapshot(trained(plain, None)), snapshot(trained(workload, window)))
    assert max(waiting) == WINDOW
    assert waiting[-1] == 0


def test_the_fixed_window_leaves_parameters_and_small_tensors() -> None:
    window = FixedWindow(torch.device("cpu"))
    parameter = torch.nn.Parameter(torch.zeros(SMALLEST_BYTES))
    small = torch.zeros(SMALLEST_BYTES // 4 - 1)
    assert window._pack(parameter) is parameter
    assert window._pack(small) is small
    large = torch.arange(SMALLEST_BYTES // 4, dtype=torch.float32)
    away = window._pack(large)
    assert away is not large
    assert torch.equal(window._unpack(away), large)


@pytest.mark.parametrize("case", TINY, ids=lambda case: case.reference)
def test_blocks_are_found_and_checkpointing_changes_no_number(case) -> None:  # type: ignore[no-untyped-def]
    limited = BenchEmulator()
    plain, workload = limited.build(case.source()), limited.build(case.source())
    assert checkpoint_blocks(case.reference, workload.model) >= 2
    torch.manual_seed(1)
    first = plain.step()
    torch.manual_seed(1)
    assert torch.equal(first, workload.step())


def test_every_case_has_blocks_and_a_setting_that_grows() -> None:
    assert {case.reference for case in CHECKED} == set(WORKLOADS) == set(BLOCKS)
    for case in (*CHECKED, *COMPARED, *TINY):
        for value in case.values:
            check_source(case.source(**{case.grows: str(value)}))
        assert case.grows in dict(case.settings)
        assert list(case.values) == sorted(case.values)
        assert 0 < case.budget_share < 1
