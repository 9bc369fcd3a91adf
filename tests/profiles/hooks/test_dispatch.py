"""What running an op again has to know of it, as its schema, tags and arguments say."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn import functional as F

from profiles.hooks.dispatch import OpMode, traits_of
from profiles.schema.profile import OpTrait

aten = torch.ops.aten


class _Traits(OpMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, tuple[OpTrait, ...]] = {}

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        self.found[str(func)] = traits_of(func, args, kwargs)
        return func(*args, **kwargs)


@torch.library.custom_op("swapplan_tests::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    return x * 2


@torch.library.custom_op("swapplan_tests::double_in_place", mutates_args=("x",))
def double_in_place(x: Tensor) -> None:
    x.mul_(2)


def traits_in(run: Callable[[], object]) -> dict[str, tuple[OpTrait, ...]]:
    with _Traits() as mode:
        run()
    return mode.found


X = torch.rand(4, 3, 8, 8)


@pytest.mark.parametrize(
    ("run", "op", "expected"),
    [
        (lambda: F.dropout(X, 0.5), aten.bernoulli_.float, {OpTrait.RANDOM}),
        (lambda: X.relu(), aten.relu.default, set()),
        (lambda: X.sum().item(), aten._local_scalar_dense.default, {OpTrait.WAITS}),
        (lambda: torch.nonzero(X), aten.nonzero.default, {OpTrait.SHAPED_BY_DATA}),
        (lambda: X[X > 0], aten.index.Tensor, {OpTrait.SHAPED_BY_DATA}),
        (lambda: X[torch.tensor([0, 2])], aten.index.Tensor, set()),
        (
            lambda: nn.BatchNorm2d(3)(X),
            aten.native_batch_norm.default,
            {OpTrait.KEEPS_STATISTICS},
        ),
        (lambda: nn.BatchNorm2d(3).eval()(X), aten.native_batch_norm.default, set()),
        (lambda: doubled(X), torch.ops.swapplan_tests.doubled.default, set()),
        (
            lambda: double_in_place(X.clone()),
            torch.ops.swapplan_tests.double_in_place.default,
            {OpTrait.UNKNOWN_EFFECTS},
        ),
    ],
)
def test_traits(run: Callable[[], object], op: OpOverload, expected: set[OpTrait]) -> None:
    assert set(traits_in(run)[str(op)]) == expected


def test_a_collective_is_one() -> None:
    import torch.distributed  # its import registers the ops

    assert OpTrait.COLLECTIVE in traits_of(torch.ops._c10d_functional.all_reduce.default, (), {})
