"""The proof of a plan: its course on the emulated device, and as on one that counts for itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from planner.plan.plan import Plan
from profiles.hooks.workload import Workload
from profiles.schema.errors import PlanMismatchError
from runtime.cli.proof_report import failures
from runtime.proof.limited_device import LimitedAccelerator, LimitedEmulator
from runtime.proof.proof import prove
from runtime.proof.report import ProofReport
from tests.support.training.models import BUILDERS
from tests.support.training.recorded import everything_away_plan

STEPS = 4


class LikeAGpu(LimitedEmulator):
    """Is measured as a GPU is, one training after the other; notes how it is limited."""

    in_host_memory = False
    advice = LimitedAccelerator.advice

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[int] = []

    @contextmanager
    def limit(self, budget_bytes: int) -> Iterator[None]:
        self.limits.append(budget_bytes)
        with super().limit(budget_bytes):
            yield


def proof(
    plan: Plan, build: Callable[[], Workload], device: LimitedEmulator | None = None
) -> tuple[ProofReport, list[str]]:
    stages: list[str] = []
    report = prove(
        plan,
        build=build,
        steps=STEPS,
        timed_steps=2,
        progress=lambda what, done, total: stages.append(what),
        device=device or LikeAGpu(),
    )
    return report, list(dict.fromkeys(stages))


@pytest.mark.cpu_only
def test_each_training_has_the_device_to_itself() -> None:
    plan = everything_away_plan("unet3d")
    device = LikeAGpu()
    report, stages = proof(plan, BUILDERS["unet3d"], device)
    assert report.passed
    assert list(failures(report)) == []
    assert report.repeats
    assert len(report.losses) == STEPS
    assert report.tensors_compared >= 3
    assert report.peak_without_bytes == plan.certificate.peak_without_bytes
    assert report.peak_with_bytes == plan.certificate.peak_bytes == plan.budget_bytes
    assert report.out_of_memory_without_plan
    assert "out of memory" in report.out_of_memory_message
    assert (report.stall_us, report.overrun_us) == (None, None)
    assert len(report.step_with_us) == len(report.step_without_us) == 2
    assert device.limits == [plan.budget_bytes, plan.budget_bytes]
    assert stages == [
        "without the plan",
        "without the plan, under its budget",
        "with the plan, under its budget",
    ]


def seeded(seeds: Iterator[int]) -> Callable[[], Workload]:
    def build() -> Workload:
        workload = BUILDERS["unet3d"]()
        spoiled = next(seeds)
        with torch.no_grad():
            next(workload.model.parameters()).add_(float(spoiled))
        return workload

    return build


@pytest.mark.parametrize(
    ("seeds", "repeats", "told"),
    [
        # Without the plan, under its budget, with it, and without it once more.
        ((0, 0, 1, 0), True, "the losses differ"),
        ((0, 0, 1, 2), False, "numbers differ from run to run without the plan, too"),
    ],
)
def test_numbers_that_never_repeat_are_told_from_a_fault_of_the_plan(
    seeds: tuple[int, ...], repeats: bool, told: str
) -> None:
    report, _ = proof(everything_away_plan("unet3d"), seeded(iter(seeds)))
    assert report.repeats is repeats
    assert not report.passed
    assert next(failures(report)).startswith(told)


@pytest.mark.cpu_only
def test_a_plan_that_runs_out_of_memory_says_what_to_do() -> None:
    plan = everything_away_plan("unet3d")
    tighter = plan.model_copy(update={"budget_bytes": plan.budget_bytes - 1})
    with pytest.raises(PlanMismatchError, match=r"expandable_segments.*record it again"):
        proof(tighter, BUILDERS["unet3d"])


def test_another_model_is_refused_before_it_is_trained() -> None:
    with pytest.raises(PlanMismatchError, match="The plan is for another model: the optimizer is"):
        proof(everything_away_plan("unet3d"), BUILDERS["resnet"])


def test_a_gpu_is_measured_at_rest_and_limited_by_its_share() -> None:
    log: list[object] = []

    def logged(name: str, result: object = None) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            log.append((name, *arguments))
            return result

        return call

    gpu = torch.device("cuda", 1)
    cuda = SimpleNamespace(
        synchronize=logged("synchronize"),
        reset_peak_memory_stats=logged("reset"),
        max_memory_allocated=logged("allocated", 11),
        max_memory_reserved=logged("reserved", 12),
        empty_cache=logged("empty"),
        set_per_process_memory_fraction=logged("fraction"),
        get_device_properties=lambda device: SimpleNamespace(total_memory=400),
    )
    device = LimitedAccelerator(gpu, cuda)
    workload = BUILDERS["unet3d"]()

    @contextmanager
    def around() -> Iterator[None]:
        log.append("begin")
        yield
        log.append("end")

    figures = device.measure(workload, around)
    assert (figures.peak_bytes, figures.reserved_bytes) == (11, 12)
    assert figures.step_us > 0
    assert log == [
        ("synchronize", gpu),
        ("reset", gpu),
        "begin",
        "end",
        ("synchronize", gpu),
        ("allocated", gpu),
        ("reserved", gpu),
    ]
    log.clear()
    with pytest.raises(torch.OutOfMemoryError), device.limit(100):
        raise torch.OutOfMemoryError("full")
    assert [entry for entry in log if isinstance(entry, tuple) and entry[0] == "fraction"] == [
        ("fraction", 0.25, gpu),
        ("fraction", 1.0, gpu),
    ]
