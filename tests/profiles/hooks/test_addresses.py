"""Code that gets at memory without an op is heard, and finds the bytes there."""

import copy
import ctypes
import itertools
import pickle
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import runtime
from profiles.hooks import addresses
from profiles.hooks.addresses import Listening, in_threads_of_this_step, touch
from profiles.hooks.anchors import AnchorHooks
from profiles.hooks.plain_tensors import address_of
from profiles.hooks.workload import Workload
from profiles.recording.trace import StepTrace
from profiles.schema.profile import Access
from runtime import FallbackWarning, LoadedPlan
from runtime.beyond_capacity.record import record_beyond_capacity
from runtime.storage.residency import TrackedStorage
from tests.support.planning.hardest_plans import everything_away
from tests.support.training.fixed_times import FAST_LINK, UNNAMED, record_at_fixed_times
from tests.support.training.recorded import assert_same, snapshot
from tests.support.training.wrappers import Quantised

WIDTH = 32

WAYS: dict[str, tuple[Access, Callable[[torch.Tensor], object]]] = {
    "data_ptr": (Access.WRITE, lambda t: t.data_ptr()),
    "storage": (Access.WRITE, lambda t: t.untyped_storage().data_ptr()),
    "typed": (Access.WRITE, lambda t: t._typed_storage()._data_ptr()),
    "numpy": (Access.WRITE, lambda t: t.numpy()),
    "asarray": (Access.WRITE, np.asarray),
    "ufunc": (Access.WRITE, lambda t: np.abs(np.asarray(t))),
    "from_dlpack": (Access.WRITE, np.from_dlpack),
    "to_dlpack": (Access.WRITE, lambda t: vars(torch.utils.dlpack)["to_dlpack"](t)),
    "apply_": (Access.WRITE, lambda t: t.apply_(abs)),
    "map_": (Access.WRITE, lambda t: t.map_(t, max)),
    "share": (Access.WRITE, lambda t: t.clone().share_memory_()),
    "const": (Access.READ, lambda t: t.const_data_ptr()),  # type: ignore[attr-defined]
    "tolist": (Access.READ, lambda t: t.tolist()),
    "repr": (Access.READ, repr),
    "format": (Access.READ, lambda t: f"{t}"),
    "pickle": (Access.READ, pickle.dumps),
    "deepcopy": (Access.READ, copy.deepcopy),
    "touch": (Access.WRITE, touch),
    "touch to read": (Access.READ, lambda t: touch(t, writes=False)),
}


class Heard:
    def __init__(self) -> None:
        self.told: list[tuple[int, Access]] = []

    def __call__(self, storage: torch.UntypedStorage, access: Access) -> None:
        self.told.append((storage._cdata, access))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_the_memory_is_told(way: str) -> None:
    access, go = WAYS[way]
    tensor = torch.ones(4)
    heard = Heard()
    with Listening(heard):
        go(tensor)
    assert heard.told
    if way != "share":
        assert heard.told[0] == (tensor.untyped_storage()._cdata, access)
    told = len(heard.told)
    go(tensor)
    assert len(heard.told) == told, "nobody listens any more"


def test_what_only_describes_a_tensor_is_not_told() -> None:
    tensor = torch.ones(4, requires_grad=True)
    heard = Heard()
    with Listening(heard):
        _ = tensor.shape, tensor.dtype, tensor.stride(), tensor._version, len(tensor), hash(tensor)
        _ = tensor.untyped_storage().nbytes(), tensor.detach(), tensor[0], tensor + 1, tensor.data
    assert heard.told == []


def test_methods_are_torchs_own_before_and_after() -> None:
    before = [dict(vars(owner)) for owner in (torch.Tensor, torch.UntypedStorage, torch._C)]
    with Listening(Heard()):
        with Listening(Heard()):
            pass
        assert "data_ptr" in vars(torch.Tensor)
    assert before == [dict(vars(o)) for o in (torch.Tensor, torch.UntypedStorage, torch._C)]
    assert vars(torch)["to_dlpack"] is vars(torch._C)["_to_dlpack"]


def test_of_a_wrapper_what_is_behind_it_is_told() -> None:
    weight = Quantised(torch.ones(2, 2, dtype=torch.int8), torch.ones(()))
    heard = Heard()
    with Listening(heard):
        touch(weight, torch.eye(3).to_sparse(), torch.empty(2, device="meta"))
    assert [cdata for cdata, _ in heard.told[:2]] == [
        weight.integers.untyped_storage()._cdata,
        weight.scale.untyped_storage()._cdata,
    ]
    assert len(heard.told) == 4, "indices and values of the sparse one, nothing of the meta one"


def test_touch_is_nothing_to_autograd() -> None:
    weight = torch.ones(3, requires_grad=True)
    kept = weight * 2
    loss = (kept * kept).sum()
    version = kept._version
    with Listening(Heard()):
        runtime.touch(weight, kept)
    assert kept._version == version
    loss.backward()
    assert torch.equal(weight.grad, torch.full((3,), 8.0))  # type: ignore[arg-type]


def read(tensor: torch.Tensor) -> torch.Tensor:
    """Stands for a foreign kernel: a copy by address."""
    out = torch.empty(tensor.shape, dtype=tensor.dtype)
    size_bytes = tensor.numel() * tensor.element_size()
    ctypes.memmove(out.data_ptr(), tensor.data_ptr(), size_bytes)
    return out


def foreign(tensor: torch.Tensor) -> torch.Tensor:
    """Stands for an extension in C++: what it is handed, it takes by itself."""
    runtime.touch(tensor, writes=False)
    out = torch.empty(tensor.shape, dtype=tensor.dtype)
    size_bytes = tensor.numel() * tensor.element_size()
    to, come_from = (address_of(t.untyped_storage()) for t in (out, tensor))
    ctypes.memmove(to, come_from, size_bytes)
    return out


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, weight: torch.Tensor, kernel: Any) -> torch.Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.kernel = kernel
        return rows @ kernel(weight).T

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        rows, weight = ctx.saved_tensors
        return gradient @ ctx.kernel(weight), gradient.T @ ctx.kernel(rows), None


class Linear(nn.Module):
    def __init__(self, kernel: Any) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH) / WIDTH**0.5)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return Product.apply(rows, self.weight, self.kernel)


def by_address(kernel: Any = read) -> Workload:
    torch.manual_seed(0)
    model = nn.Sequential(*[m for _ in range(3) for m in (Linear(kernel), nn.GELU())])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = torch.randn(64, WIDTH)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(rows).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


@pytest.mark.parametrize("kernel", [read, foreign])
@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_a_kernel_finds_its_bytes_whatever_was_recorded(kernel: Any) -> None:
    """Every trip that the everything-away plan makes would empty what a kernel reads."""
    plain, workload = by_address(kernel), by_address(kernel)
    profile = record_at_fixed_times(by_address(kernel))
    plan = everything_away(profile)
    with LoadedPlan(plan).attach(workload.model, workload.optimizer) as replay:
        for _ in range(3):
            with replay.step():
                loss = workload.step()
            assert torch.equal(loss, plain.step())
        assert sum(step.d2h_bytes for step in replay.steps) > 0
    assert_same(snapshot(workload), snapshot(plain))
    assert "data_ptr" not in vars(torch.Tensor)


def test_a_kernel_that_the_recording_did_not_see_falls_back() -> None:
    """The step is recorded with ops; the replay's kernels read by address."""
    profile = record_at_fixed_times(by_address(torch.clone))
    plain, workload = by_address(torch.clone), by_address(torch.clone)
    plan = everything_away(profile)
    away = next(workload.model.parameters())

    def by_address_too(*_: Any) -> None:
        read(away)

    with LoadedPlan(plan).attach(workload.model, workload.optimizer) as replay:
        with replay.step() as usual:
            workload.step()
        plain.step()
        last = list(workload.model.children())[-1]
        handle = last.register_forward_hook(by_address_too)
        with pytest.warns(FallbackWarning, match="code that is no op uses"), replay.step() as odd:
            workload.step()
        plain.step()
        handle.remove()
    assert usual.fallback is None
    assert odd.fallback is not None
    assert_same(snapshot(workload), snapshot(plain))


def test_between_steps_any_thread_finds_the_bytes() -> None:
    workload = by_address(torch.clone)
    profile = record_at_fixed_times(by_address(torch.clone))
    weight = next(workload.model.parameters())
    found: list[float] = []
    with LoadedPlan(everything_away(profile)).attach(workload.model, workload.optimizer) as replay:
        for _ in range(2):
            with replay.step():
                workload.step()
        before = replay.boundary_restores
        replay._stepper.guard.enter(
            [TrackedStorage(weight.untyped_storage(), replay._stepper.accountant)]
        )
        thread = threading.Thread(target=lambda: found.extend(weight.detach().reshape(-1).tolist()))
        thread.start()
        thread.join()
        assert replay.boundary_restores == before + 1
    assert found == weight.detach().reshape(-1).tolist()


class ByAddress(torch.optim.Optimizer):
    """An optimizer whose kernel is handed addresses."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            size = parameter.numel()
            floats = ctypes.c_float * size
            weights = floats.from_address(parameter.data_ptr())
            gradients = floats.from_address(parameter.grad.data_ptr())
            for number in range(size):
                weights[number] -= 0.1 * gradients[number]


def test_an_update_by_address_is_an_anchor() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = ByAddress(model.parameters())
    keys: list[str] = []

    class Listener:
        def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
            keys.append(key)

    hooks = AnchorHooks(model, optimizer, Listener())
    with hooks.step():
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
    hooks.close()
    assert keys[keys.index("optimizer:pre") :] == [
        *("optimizer:pre", "update:0.weight", "update:0.bias", "update:1.weight", "update:1.bias"),
        *("optimizer:post", "end"),
    ]


def test_within_a_limit_a_kernel_finds_its_bytes() -> None:
    """Beyond capacity anything may be away when a kernel takes an address."""
    plain, limited = by_address(), by_address()
    least_bytes = 100 << 10
    profile = record_beyond_capacity(
        limited, source=UNNAMED, link=FAST_LINK, limit_bytes=least_bytes, timed_steps=1
    )
    steps = profile.warmup_steps + 1
    for _ in range(steps):
        plain.step()
    assert_same(snapshot(limited), snapshot(plain))
    taken = [
        touch
        for storage in profile.storages
        for touch in storage.touches
        if touch.access is Access.WRITE
    ]
    assert taken, "a plan made from this profile knows where the bytes are needed"


@pytest.mark.parametrize(("in_thread", "touches"), [(False, 1), (True, 0)])
def test_what_another_thread_takes_is_none_of_the_step(in_thread: bool, touches: int) -> None:
    model = nn.Linear(2, 2, bias=False)
    trace = StepTrace(torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters())
    workload = Workload(model=model, optimizer=optimizer, step=lambda: torch.ones(1))
    trace.begin_step(workload, workload.step)
    trace.on_anchor("begin", None)
    with Listening(in_threads_of_this_step(trace.on_address)):
        if in_thread:
            thread = threading.Thread(target=lambda: model.weight.tolist())
            thread.start()
            thread.join()
        else:
            model.weight.tolist()
    (weight,) = trace.storages(workload)
    assert len(weight.touches) == touches


class InterruptIn:
    """Raises before the n-th instruction of the module that replaces methods."""

    def __init__(self, number: int) -> None:
        self.number, self.seen = number, 0

    def __call__(self, frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_filename != addresses.__file__:
            return None
        frame.f_trace_opcodes = True
        self.seen += event == "opcode"
        if event == "opcode" and self.seen == self.number:
            raise KeyboardInterrupt
        return self


def methods() -> list[Any]:
    return [vars(owner).get(name) for owner, _, names in addresses._METHODS for name in names]


def test_an_interrupt_while_methods_are_replaced_or_put_back_loses_none() -> None:
    plain, heard = methods(), list[Access]()
    for number in itertools.count(1, 11):
        interrupt = InterruptIn(number)
        sys.settrace(interrupt)
        try:
            with Listening(lambda *_: None):
                pass
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        for left in addresses._listeners:  # Interrupted as its `with` statement began or ended.
            left.remove()
        with Listening(lambda _, access: heard.append(access)):
            torch.ones(2).numpy()
        assert len(heard) == (number + 10) // 11
        assert methods() == plain
        if interrupt.seen < number:
            break
    assert number > 500
