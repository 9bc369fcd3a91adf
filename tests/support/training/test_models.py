"""The workloads of the runtime's tests are what they say: they train, the same way each time."""

from collections.abc import Callable

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from profiles.hooks.workload import Workload
from tests.support.training.models import BUILDERS, twice_with_neighbour

STEPS = 2


def train(build: Callable[[], Workload]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    workload = build()
    losses = [workload.step().detach() for _ in range(STEPS)]
    return losses, [parameter.detach() for parameter in workload.model.parameters()]


@pytest.mark.parametrize("name", BUILDERS)
def test_training_is_deterministic(name: str) -> None:
    losses, parameters = train(BUILDERS[name])
    losses_again, parameters_again = train(BUILDERS[name])
    assert all(torch.isfinite(loss) for loss in losses)
    assert losses[0] != losses[1]
    assert losses == losses_again
    assert all(map(torch.equal, parameters, parameters_again))


@pytest.mark.parametrize("name", BUILDERS)
def test_every_parameter_is_trained(name: str) -> None:
    workload = BUILDERS[name]()
    before = [parameter.detach().clone() for parameter in workload.model.parameters()]
    for _ in range(STEPS):
        workload.step()
    after = list(workload.model.parameters())
    assert len(after) > 4
    assert not [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if torch.equal(a, b)]


def test_the_neighbour_of_a_saved_tensor_is_written_while_it_is_saved() -> None:
    """Two saved tensors share a storage that is not the same when saved and when read."""
    saved: list[tuple[torch.Tensor, torch.Tensor]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        whole = tensor.detach().new_empty(0).set_(tensor.untyped_storage())
        saved.append((tensor.detach(), whole.clone()))
        return tensor.detach()

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        twice_with_neighbour().step()
    written = [
        tensor
        for tensor, was in saved
        if tensor.storage_offset() == 0
        and not torch.equal(was, was.new_empty(0).set_(tensor.untyped_storage()))
        and tensor.numel() * 2 == was.numel()
    ]
    assert written
