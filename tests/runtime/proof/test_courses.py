"""The proof of the plans of several courses: what it shows, and what it fails on."""

from dataclasses import replace

import pytest
import torch

from planner.plan.plan_set import PlanSet
from profiles.hooks.workload import Workload
from profiles.schema.errors import PlanMismatchError, WorkloadError
from runtime.proof.courses import CoursesReport, prove_courses
from tests.runtime.proof.test_proof import LikeAGpu
from tests.runtime.training.test_load_courses import ROWS, WIDTH, plans, trained

STEPS = 7


def workload(rows: tuple[int, ...] = ROWS) -> Workload:
    it = trained()
    steps = 0

    def step() -> torch.Tensor:
        nonlocal steps
        batch = torch.randn(rows[steps % len(rows)], WIDTH)
        steps += 1
        loss: torch.Tensor = (it.model(batch) - batch).square().mean()
        loss.backward()
        it.optimizer.step()
        it.optimizer.zero_grad()
        return loss.detach()

    return Workload(model=it.model, optimizer=it.optimizer, step=step)


def proof(rows: tuple[int, ...] = ROWS, *, of: PlanSet | None = None) -> CoursesReport:
    return prove_courses(of or plans(), build=lambda: workload(rows), steps=STEPS)


def test_a_proof_that_passes() -> None:
    report = proof()
    assert report.failures == ()
    assert len(report.losses) == STEPS
    assert report.tensors_compared > 20
    assert report.peak_with_bytes <= report.budget_bytes < report.peak_without_bytes
    assert "out of memory" in report.out_of_memory_message
    assert [(course.steps, course.how) for course in report.courses] == [
        (3, "replayed"),
        (2, "replayed"),
        (2, "replayed"),
    ]


def test_a_course_without_a_plan_is_in_it() -> None:
    report = proof((256, 100))
    assert report.failures == ()
    steps = {course.course: (course.steps, course.how) for course in report.courses}
    assert steps["model(float32[100x64])"] == (3, "run without a plan")
    assert report.peak_with_bytes <= report.budget_bytes


def test_one_after_the_other_as_on_a_gpu() -> None:
    device = LikeAGpu()
    report = prove_courses(plans(), build=workload, steps=STEPS, device=device)
    assert report.failures == ()
    assert device.limits == [plans().budget_bytes] * 2


@pytest.mark.parametrize(
    ("changed", "failure"),
    [
        ({"losses_equal": False}, "the losses differ"),
        ({"tensors_equal": False}, "parameters, gradients, buffers or optimizer states differ"),
        ({"peak_with_bytes": 1 << 40}, "the peak was 1099511627776 bytes, above the budget of"),
    ],
)
def test_what_it_fails_on(changed: dict[str, object], failure: str) -> None:
    (said,) = replace(proof(), **changed).failures  # type: ignore[arg-type]
    assert said.startswith(failure)


def test_a_step_that_falls_back_fails_it() -> None:
    report = proof()
    first, *others = report.courses
    fell = replace(report, courses=(replace(first, fallbacks=2), *others))
    assert fell.failures == ("2 steps fell back to resident",)


def test_plans_for_another_model_are_refused() -> None:
    def other() -> Workload:
        it = trained(WIDTH // 2)
        return Workload(model=it.model, optimizer=it.optimizer, step=workload().step)

    with pytest.raises(PlanMismatchError, match="another model"):
        prove_courses(plans(), build=other, steps=STEPS)


def test_steps_that_never_call_the_model_prove_nothing() -> None:
    def idle() -> Workload:
        it = trained()
        return Workload(model=it.model, optimizer=it.optimizer, step=lambda: torch.zeros(()))

    with pytest.raises(WorkloadError, match="call no module of the model"):
        prove_courses(plans(), build=idle, steps=STEPS)
