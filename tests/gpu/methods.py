"""Ways to train within a budget that are compared: the plan, three baselines, and nothing."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum

from torch.autograd.graph import save_on_cpu

from planner.plan.plan import Plan
from planner.solving import solve
from profiles.hooks.workload import Workload
from profiles.recording.record import record
from profiles.schema.profile import Link, WorkloadSource
from runtime.proof.limited_device import Around
from runtime.replay.replay import Replay
from tests.gpu.bench_device import BenchDevice
from tests.gpu.checkpointing import checkpoint_blocks
from tests.gpu.fixed_window import FixedWindow

SOLVE_SECONDS = 20.0
"""Two minutes for all that are checked, of the eight that a check may take."""


class Method(Enum):
    """A way to train."""

    NOTHING = "nothing"
    SWAPPLAN = "swapplan"
    SAVE_ON_CPU = "save_on_cpu"
    FIXED_WINDOW = "fixed window"
    CHECKPOINTING = "full checkpointing"


@dataclass(frozen=True)
class Trainee:
    """A workload that is trained by a method.

    Attributes:
        workload: What is trained.
        around: Surrounds each of its steps.
    """

    workload: Workload
    around: Around


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be trained, and within what.

    Attributes:
        source: The workload.
        budget_bytes: Device bytes.
        link: The link that a plan is made for.
        timed_steps: Steps that a recording times.
    """

    source: WorkloadSource
    budget_bytes: int
    link: Link
    timed_steps: int


@contextmanager
def trained_by(method: Method, task: Task, limited: BenchDevice) -> Iterator[Trainee]:
    """Builds a workload anew for a method.

    Raises:
        BudgetError: No plan meets the budget.
        torch.OutOfMemoryError: Not even the model and its batch fit.
    """
    if method is Method.SWAPPLAN:
        plan = planned(task, limited)
        workload = limited.build(task.source)
        with Replay(plan, workload.model, workload.optimizer) as replay:
            yield Trainee(workload, replay.step)
        return
    workload = limited.build(task.source)
    if method is Method.CHECKPOINTING:
        checkpoint_blocks(task.source.reference, workload.model)
    yield Trainee(workload, _around(method, limited))


def planned(task: Task, limited: BenchDevice) -> Plan:
    """Records the step where it fits and plans it for the budget.

    Raises:
        BudgetError: No plan meets it.
    """
    workload = limited.build(task.source)
    profile = record(workload, source=task.source, link=task.link, timed_steps=task.timed_steps)
    del workload
    limited.tidy()
    return solve(profile, budget_bytes=task.budget_bytes, time_limit_s=SOLVE_SECONDS)


def _around(method: Method, limited: BenchDevice) -> Around:
    if method is Method.SAVE_ON_CPU:
        return lambda: save_on_cpu(pin_memory=limited.device.type == "cuda")
    if method is Method.FIXED_WINDOW:
        window = FixedWindow(limited.device)
        return lambda: window
    return nullcontext
