"""A step that forbids what recording needs is refused with what to do, in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from profiles.hooks.workload import Workload
from profiles.recording.record import record
from profiles.schema.errors import WorkloadError
from profiles.schema.profile import WorkloadSource
from profiles.workloads.build import build
from tests.support.training.fixed_times import FAST_LINK, UNNAMED


def forbidding(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    with torch.autograd.graph.disable_saved_tensors_hooks("no saved tensors hooks here"):
        return model(rows)


@pytest.mark.parametrize(
    "extra",
    [
        lambda model, rows: torch.func.grad(lambda x: model(x).sum())(rows),
        lambda model, rows: torch.func.vjp(model, rows)[1](model(rows).detach())[0],
        forbidding,
    ],
)
def test_a_step_that_forbids_hooks_is_refused(
    extra: Callable[[nn.Module, torch.Tensor], torch.Tensor],
) -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters())

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        rows = torch.ones(2, 4)
        loss = model(rows).sum() + extra(model, rows).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    workload = Workload(model=model, optimizer=optimizer, step=step)
    with pytest.raises(WorkloadError, match=r"cannot be recorded.*torch\.autograd\.grad") as told:
        record(workload, source=UNNAMED, link=FAST_LINK)
    assert "\n" not in str(told.value)


def test_so_is_a_step_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\n"
        "def train():\n"
        "    model = torch.nn.Linear(4, 4)\n"
        "    def step():\n"
        "        torch.func.grad(lambda x: model(x).sum())(torch.ones(2, 4))\n"
        "    return model, torch.optim.SGD(model.parameters()), step\n"
    )
    source = WorkloadSource(reference=f"{path}:train", settings=(), seed=0)
    workload = build(source)
    with (
        pytest.raises(WorkloadError, match=r"mine\.py:train: The step calls .* cannot be recorded"),
        torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x),
    ):
        workload.step()


def test_other_errors_are_left_as_they_are() -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters())

    def step() -> torch.Tensor:
        raise RuntimeError("something else")

    workload = Workload(model=model, optimizer=optimizer, step=step)
    with pytest.raises(RuntimeError, match=r"^something else$"):
        record(workload, source=UNNAMED, link=FAST_LINK)
