"""The guard of ops by itself: which ops it stops, and which it lets pass."""

from collections.abc import Callable

import pytest
import torch
from torch.testing._internal.two_tensor import TwoTensor

from runtime.replay.op_guard import OpGuard
from runtime.storage.accountant import Accountant
from runtime.storage.residency import TrackedStorage

pytestmark = pytest.mark.cpu_only

Op = Callable[[torch.Tensor], object]


class Guarded:
    """A tensor whose storage an op may not touch, or not write, and what was said of ops on it."""

    def __init__(self) -> None:
        self.tensor = torch.ones(4, 4)
        self.told: list[str] = []
        accountant = Accountant(torch.device("cpu"), None)
        self.guarded = accountant.guarded
        self.guarded.when_forbidden_use(lambda reason, _: self.told.append(reason.split()[0]))
        self.tracked = TrackedStorage(self.tensor.untyped_storage(), accountant)
        self.guard = OpGuard(self.guarded)


@pytest.fixture(name="it")
def _it() -> Guarded:
    return Guarded()


TOUCHING: list[Op] = [
    lambda t: t + 1,
    lambda t: 1 - t,
    lambda t: torch.cat([torch.ones(1, 4), t]),
    lambda t: torch._foreach_add([torch.ones(2), t], 1.0),
    lambda t: torch.add(torch.ones(4, 4), 1, out=t),
    lambda t: torch.ones(4, 4)[t > 2],
    lambda t: torch.ones(4, 4).index_put_((torch.tensor(0),), t[0]),
    lambda t: t.view(-1),
    lambda t: torch.nn.functional.layer_norm(torch.ones(2, 4), (4,), weight=t[0]),
    lambda t: TwoTensor(torch.ones(4, 4), t) * 2,
    lambda t: torch.sparse.mm(torch.eye(4).to_sparse(), t),
]


@pytest.mark.parametrize("op", TOUCHING)
def test_an_op_on_a_forbidden_storage_is_told_before_it_runs(it: Guarded, op: Op) -> None:
    it.guarded.forbid(it.tracked)
    with it.guard:
        op(it.tensor)
    assert it.told
    assert all(name.startswith("aten.") for name in it.told)


PASSING: list[Op] = [
    lambda t: torch.ones(4, 4) + 1,
    lambda t: torch.empty_like(t),
    lambda t: t.detach(),
    lambda t: t.shape,
    lambda t: torch.cat([torch.ones(1), torch.ones(1)]),
    lambda t: torch.eye(4).to_sparse() * 2,
]


@pytest.mark.parametrize("op", PASSING)
def test_an_op_that_needs_none_of_its_bytes_passes(it: Guarded, op: Op) -> None:
    it.guarded.forbid(it.tracked)
    with it.guard:
        op(it.tensor)
    assert it.told == []


def test_what_is_allowed_again_passes(it: Guarded) -> None:
    it.guarded.forbid(it.tracked)
    it.guarded.allow(it.tracked)
    with it.guard:
        it.tensor.add_(1)
    assert it.told == []
    assert it.guarded.addresses == set()


def test_another_storage_at_the_address_of_one_that_died_passes(it: Guarded) -> None:
    it.guarded.forbid(it.tracked)
    other = torch.ones(2)
    it.guarded.forbidden[other.untyped_storage()._cdata] = it.tracked
    it.guarded.addresses.add(other.untyped_storage()._cdata)
    with it.guard:
        other.add_(1)
    assert it.told == []


@pytest.mark.parametrize(
    ("op", "writes"),
    [
        (lambda t: t + 1, False),
        (lambda t: t.mm(t), False),
        (lambda t: t.data.mul_(2), True),
        (lambda t: t[1:].zero_(), True),
        (lambda t: torch.add(t, 1, out=t), True),
        (lambda t: torch._foreach_mul_([t], 2.0), True),
        (
            lambda t: torch.nn.functional.batch_norm(
                torch.rand(3, 4), t[0], torch.ones(4), training=True
            ),
            True,
        ),
    ],
)
def test_a_write_of_a_copied_storage_has_the_copy_forgotten(
    it: Guarded, op: Op, writes: bool
) -> None:
    it.tracked.keep_copy()
    with it.guard:
        op(it.tensor)
    assert it.tracked.has_copy is not writes
    assert it.told == []


def test_a_compiled_function_is_seen(it: Guarded) -> None:
    function = torch.compile(lambda t: (t.sin() + 1).cos(), backend="eager")
    function(torch.ones(4, 4))
    it.guarded.forbid(it.tracked)
    with it.guard:
        function(it.tensor)
    assert it.told == ["aten.sin.default"]
