"""A fake step for a GPU takes the attention kernels that it would take there."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from profiles.hooks.workload import Workload
from tests.support.training.estimating import estimated

FUSED = "aten._scaled_dot_product_efficient_attention.default"


def attending(attend: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]) -> Workload:
    model = torch.nn.Linear(16, 16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.rand(shape)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = attend(model(inputs)).sum()
        loss.backward()
        optimizer.step()
        return loss

    return Workload(model=model, optimizer=optimizer, step=step)


def in_order(heads: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(heads, heads, heads)


def by_name(heads: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(query=heads, key=heads, value=heads)


@pytest.mark.parametrize("attend", [in_order, by_name])
@pytest.mark.parametrize(("shape", "kernels"), [((2, 4, 8, 16), 1), ((4, 8, 16), 0)])
def test_attention_is_fused_where_there_are_heads(
    attend: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...], kernels: int
) -> None:
    profile = estimated(lambda: attending(attend, shape), "cuda")
    assert [op.name for op in profile.ops].count(FUSED) == kernels
