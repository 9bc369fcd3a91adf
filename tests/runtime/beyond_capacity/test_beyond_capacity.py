"""Steps that do not fit: recorded while storages are swapped on line, with nothing changed."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from planner.plan.lanes import Direction
from planner.solving import solve
from profiles.hooks.dispatch import is_bookkeeping, storages_in, storages_of
from profiles.hooks.named_storages import owned_storages
from profiles.hooks.workload import Workload
from profiles.recording.allocator_peaks import with_op_overhead
from profiles.recording.clocks import CpuClock
from profiles.recording.device import Instruments, build_on, device_at_hand
from profiles.recording.op_watchers import OpTimes, OpWorkspaces
from profiles.schema.errors import CapacityError
from profiles.schema.link import CopyMethod
from profiles.schema.profile import Profile, SlotTimes, WorkloadSource
from profiles.schema.units import parse_size_bytes
from runtime.beyond_capacity.online_swap import OnlineSwap, SecondTry
from runtime.beyond_capacity.output_bytes import output_bytes
from runtime.beyond_capacity.record import record_beyond_capacity
from runtime.host.host_pool import HostFreeList, HostPool, HostStretch
from runtime.lanes.cuda import StreamLane
from runtime.lanes.emulated import Copy, carry
from runtime.lanes.lane import Piece
from runtime.proof.proof import prove
from runtime.storage.accountant import Accountant
from tests.profiles.recording.test_record import two_layers
from tests.profiles.recording.test_record_cuda import layers_on_device
from tests.support.planning.toys import activation, resident, toy
from tests.support.training.fake_streams import ComputeLog, FakeStreams, logging_resizes
from tests.support.training.fake_time import CountingClock
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.models import BUILDERS
from tests.support.training.recorded import (
    FAST_LINK,
    assert_all_resident,
    assert_same,
    recorded,
    snapshot,
)

CPU = torch.device("cpu")
SOURCE = WorkloadSource(reference="", settings=(), seed=0)
SHARE = 0.6

Moves = list[tuple[str, int]]
"""Direction and bytes of each copy, in order."""


def peak_bytes(profile: Profile) -> int:
    return profile.peak_bytes


def limit_bytes(name: str) -> int:
    return int(SHARE * peak_bytes(recorded(name)))


def beyond(workload: Workload, limit: int, **options: Any) -> Profile:
    return record_beyond_capacity(
        workload, source=SOURCE, link=FAST_LINK, limit_bytes=limit, timed_steps=1, **options
    )


@cache
def recorded_beyond(name: str) -> Profile:
    tools = Instruments(clock=CountingClock(), memory=None, kernels=None)
    return beyond(BUILDERS[name](), limit_bytes(name), instruments=tools)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_trace_is_that_of_the_resident_step(name: str) -> None:
    """Storages (bytes, kinds, lifetimes, uses), anchors, what they show, and ops: all the same."""
    resident, swapped = recorded(name), recorded_beyond(name)
    assert swapped.storages == resident.storages
    assert [(s.anchor, s.shows) for s in swapped.slots] == [
        (s.anchor, s.shows) for s in resident.slots
    ]
    assert [(op.name, op.slot, op.module) for op in swapped.ops] == [
        (op.name, op.slot, op.module) for op in resident.ops
    ]
    assert peak_bytes(swapped) == peak_bytes(resident)
    assert swapped.model_fingerprint == resident.model_fingerprint


@pytest.mark.parametrize("name", BUILDERS)
def test_a_slot_takes_as_long_as_its_ops(name: str) -> None:
    profile = recorded_beyond(name)
    assert profile.slot_times is SlotTimes.SUM_OF_OPS
    assert {op.duration_us for op in profile.ops} == {1.0 + number for number in range(7)}
    for t, slot in enumerate(profile.slots):
        ops_us = sum(op.duration_us for op in profile.ops if op.slot == t)
        assert slot.duration_us == pytest.approx(ops_us)


@pytest.mark.parametrize("name", BUILDERS)
def test_recording_changes_no_number(name: str) -> None:
    """The steps that recording runs train as any others would, bit by bit."""
    workload, plain = BUILDERS[name](), BUILDERS[name]()
    losses: list[torch.Tensor] = []

    def step() -> torch.Tensor:
        losses.append(workload.step().detach())
        return losses[-1]

    # Dropout draws from the generator that both trainings share.
    torch.manual_seed(5)
    told = Workload(model=workload.model, optimizer=workload.optimizer, step=step)
    profile = beyond(told, limit_bytes(name))
    assert len(losses) == profile.warmup_steps + profile.timed_steps
    torch.manual_seed(5)
    plain_losses = [plain.step().detach() for _ in losses]
    assert [loss.item() for loss in losses] == [loss.item() for loss in plain_losses]
    assert_same(snapshot(workload), snapshot(plain))
    assert_all_resident(workload)
    for one, other in zip(workload.model.parameters(), plain.model.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


@pytest.mark.parametrize("name", BUILDERS)
def test_the_limit_holds(name: str) -> None:
    """By the count of the accountant, which raises above the budget and knows of no swapping."""
    workload, budget = BUILDERS[name](), limit_bytes(name)
    accountant = Accountant(CPU, budget)
    moves: Moves = []
    swap = on_line(accountant, moves)
    for _ in range(3):
        owned = owned_storages(workload.model, workload.optimizer)
        swap.begin_step(owned)
        accountant.memory.count_owned(owned)
        del owned
        times = OpTimes(CpuClock())
        with accountant.watch(), SecondTry(swap.evict_all_but, [times]), swap:
            workload.step()
        assert not swap.fell_short
        assert accountant.memory.live_bytes <= budget
    assert {move for move, _ in moves} == {"out", "in"}
    swap.close()
    assert_all_resident(workload)


class LoggingLane:
    """Copies at once and says so."""

    def __init__(self, direction: Direction, moves: Moves) -> None:
        self._direction = direction
        self._moves = moves

    def issue(
        self,
        storage: torch.UntypedStorage,
        host: HostStretch,
        engine: CopyMethod = CopyMethod.DMA,
    ) -> Copy:
        self._moves.append(("out" if self._direction is Direction.D2H else "in", host.size_bytes))
        copy = Copy(engine)
        copy.pieces.append(Piece.of(storage, host))
        carry(copy, self._direction, None, 0)
        return copy

    def flush(self) -> None:
        """Nothing is pending."""

    def finish(self) -> None:
        """Everything has ended."""

    def close(self) -> None:
        """Holds nothing."""


def on_line(accountant: Accountant, moves: Moves) -> OnlineSwap:
    return OnlineSwap(
        CPU,
        accountant,
        d2h=LoggingLane(Direction.D2H, moves),
        h2d=LoggingLane(Direction.H2D, moves),
        free_list=HostFreeList(),
    )


class OneSlab:
    """Host memory in one piece, so that the fake streams can tell its bytes apart."""

    def __init__(self, size_bytes: int) -> None:
        self._slab = HostPool(size_bytes)
        self._used_bytes = 0

    def new(self, size_bytes: int) -> HostPool:
        offset_bytes = self._used_bytes
        self._used_bytes += size_bytes

        class Part(HostPool):
            def stretch(part, offset: int, size: int) -> HostStretch:
                return self._slab.stretch(offset_bytes + offset, size)

        return Part(0)


@pytest.mark.parametrize("name", ["unet3d", "accumulating"])
def test_on_streams_no_copy_races_an_op(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """With the lanes of a GPU nothing waits on the host; the order of streams holds it together."""
    streams = FakeStreams()
    for method, what in (("give_back", "release"), ("take", "swap-in")):
        logged = logging_resizes(streams, getattr(Accountant, method), what)
        monkeypatch.setattr(Accountant, method, logged)
    workload, accountant = BUILDERS[name](), Accountant(CPU, limit_bytes(name))
    d2h, h2d = (StreamLane(streams, direction) for direction in Direction)
    free_list = HostFreeList(OneSlab(10 * peak_bytes(recorded(name))).new)
    swap = OnlineSwap(CPU, accountant, d2h=d2h, h2d=h2d, free_list=free_list)
    for _ in range(2):
        accountant.memory.count_owned(owned_storages(workload.model, workload.optimizer))
        times = OpTimes(CpuClock())
        with accountant.watch(), SecondTry(swap.evict_all_but, [times]), ComputeLog(streams), swap:
            workload.step()
    swap.close()
    assert streams.races == []
    directions = [entry[0] for entry in streams.log if entry[0] in ("D2H", "H2D")]
    assert directions.count("D2H") >= directions.count("H2D") > 10
    plain = BUILDERS[name]()
    for _ in range(2):
        plain.step()
    assert_same(snapshot(workload), snapshot(plain))


def test_the_longest_idle_leave_first_and_come_back_for_their_op() -> None:
    """Room for 100 bytes. Sizes name the tensors: a is 40 bytes, b 30, c 20, d 50."""
    accountant = Accountant(CPU, 100)
    moves: Moves = []
    with accountant.watch(), on_line(accountant, moves):
        a = torch.ones(40, dtype=torch.uint8)
        b = torch.ones(30, dtype=torch.uint8)
        c = torch.ones(20, dtype=torch.uint8)
        assert moves == [], "90 of 100 bytes"
        a.add_(1)
        d = torch.ones(50, dtype=torch.uint8)
        assert moves == [("out", 30), ("out", 20)], "a was used since"
        moves.clear()
        b[:20].add_(c)
        assert moves == [("out", 40), ("in", 30), ("in", 20)], "a lies idle longer than d"
        moves.clear()
        del d
        a.add_(2)
        assert moves == [("in", 40)], "d is gone, and its bytes with it"
    assert a.tolist() == [4] * 40
    assert b.tolist() == [2] * 20 + [1] * 10


def test_a_storage_that_dies_on_the_host_leaves_nothing_behind() -> None:
    accountant = Accountant(CPU, 100)
    moves: Moves = []
    with accountant.watch(), on_line(accountant, moves):
        for _ in range(50):
            away = torch.ones(60, dtype=torch.uint8)
            torch.ones(70, dtype=torch.uint8)
            del away
        assert accountant.memory.live_bytes == 0
    assert moves == [("out", 60)] * 50


def test_memory_of_somebody_else_stays() -> None:
    """numpy's memory cannot be resized; what is needed beside it says so."""
    accountant = Accountant(CPU, 100)
    moves: Moves = []
    with accountant.watch(), on_line(accountant, moves) as swap:
        fixed = torch.from_numpy(torch.ones(60, dtype=torch.uint8).numpy().copy())
        fixed.add_(1)
        other = torch.ones(30, dtype=torch.uint8)
        torch.ones(35, dtype=torch.uint8)
        assert moves == [("out", 30)]
        assert not swap.fell_short
        assert swap.largest_need.size_bytes == 60 + 35
        torch.ones(45, dtype=torch.uint8)
        assert swap.fell_short
    assert other.numel() == 30


def test_an_op_too_large_is_named_with_what_it_needs() -> None:
    name = "resnet"
    with pytest.raises(CapacityError, match=r"limit is 1\.00 MiB\. Give --limit") as caught:
        beyond(BUILDERS[name](), 2**20)
    message = str(caught.value)
    assert "\n" not in message
    # The largest of all, not the first that found no room: with as much as is printed it runs.
    needed = message.split(" needs ")[1].split(" on the device")[0]
    assert beyond(BUILDERS[name](), parse_size_bytes("--limit", needed)).storages
    assert message.startswith("aten.")


def test_the_emulated_device_has_no_capacity_of_its_own() -> None:
    with pytest.raises(CapacityError, match="--limit 300MiB"):
        record_beyond_capacity(two_layers(), source=SOURCE, link=FAST_LINK, limit_bytes=None)


def test_copies_are_not_timed() -> None:
    """Every op takes the time between two stamps, and no copy is made between those."""
    log: list[str] = []

    class LoggingClock(CpuClock):
        def stamp(self) -> None:
            log.append("stamp")
            super().stamp()

    accountant = Accountant(CPU, 100)
    moves: Moves = []
    times = OpTimes(LoggingClock())
    with times, accountant.watch(), on_line(accountant, moves):
        for size in (60, 50, 45):
            torch.ones(size, dtype=torch.uint8).add_(1)
            log.append(f"{len(moves)} moves")
        kept = [torch.ones(60, dtype=torch.uint8)]
        kept.append(torch.ones(60, dtype=torch.uint8))
    assert log[:2] == ["stamp", "stamp"]
    assert log.count("stamp") == 2 * len(times)
    assert len(moves) == 1


class Failing(TorchDispatchMode):
    """A device that runs out of memory in every so many-th op, once each."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.failed = 0
        self._every = every
        self._ops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._ops += 1
        if self._ops % self._every == 0:
            self.failed += 1
            raise torch.OutOfMemoryError("no workspace")
        return func(*args, **(kwargs or {}))


def test_an_op_without_room_for_its_workspace_runs_again_alone() -> None:
    evicted: list[set[int]] = []
    failing, times = Failing(every=2), OpTimes(CpuClock())
    left = torch.arange(6.0)
    with times, failing, SecondTry(evicted.append, [times]):
        product = left * 2
        total = product + left
    assert total.tolist() == [0.0, 3.0, 6.0, 9.0, 12.0, 15.0]
    assert failing.failed == 1
    assert evicted == [{product.untyped_storage()._cdata, left.untyped_storage()._cdata}]
    assert len(times) == len(times.durations_us()) == 2


@pytest.mark.parametrize(
    "op", [lambda values: values.add_(1), torch.rand_like], ids=["writes", "draws"]
)
def test_an_op_that_cannot_run_twice_is_named(op: Callable[[torch.Tensor], object]) -> None:
    values = torch.ones(3)
    told = pytest.raises(CapacityError, match=r"aten\.\w+.* cannot be run twice")
    with told, Failing(every=1), SecondTry(lambda kept: None, []):
        op(values)


def test_an_op_that_fails_again_is_named() -> None:
    values = torch.ones(3)
    told = pytest.raises(CapacityError, match=r"aten\.mul\.Tensor does not fit .* on the host")
    with told, Failing(every=1), SecondTry(lambda kept: None, []):
        values * 2


class Predicted(TorchDispatchMode):
    """Compares what fake tensors say with what each op then allocates."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: set[str] = set()
        self.ops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        predicted = output_bytes(CPU, func, args, kwargs)
        before = {storage: storage.nbytes() for storage in storages_in(func, args, kwargs)}
        result = func(*args, **kwargs)
        after = {*storages_of(result), *before}
        allocated = sum(storage.nbytes() - before.get(storage, 0) for storage in after)
        self.ops += 1
        if predicted != allocated and not is_bookkeeping(func):
            self.wrong.add(str(func))
        return result


@pytest.mark.parametrize("name", ["unet3d", "resnet", "gpt2", "accumulating"])
def test_outputs_are_as_large_as_fake_tensors_say(name: str) -> None:
    workload = BUILDERS[name]()
    workload.step()
    with Predicted() as predicted:
        workload.step()
    assert predicted.ops > 80
    # Its scalar sits in a storage of the size of its argument; `SecondTry` is for such ops.
    assert predicted.wrong <= {"aten.mse_loss.default"}


def test_outputs_whose_size_depends_on_data_are_unknown() -> None:
    values = torch.ones(3)
    assert output_bytes(CPU, torch.ops.aten.nonzero.default, (values,), {}) is None
    assert output_bytes(CPU, torch.ops.aten._local_scalar_dense.default, (values,), {}) == 0
    assert output_bytes(CPU, torch.ops.aten.resize_.default, (values, [5]), {}) == 8


def test_a_step_that_never_settles_says_so() -> None:
    class Slower(CpuClock):
        rounds = 0

        def intervals_us(self) -> list[float]:
            self.rounds += 1
            return [2.0**self.rounds for _ in super().intervals_us()]

    tools = Instruments(clock=Slower(), memory=None, kernels=None)
    profile = beyond(two_layers(), 100_000, instruments=tools)
    assert not profile.settled


class Scripted:
    """An allocator that takes 300 bytes during each op and gives them back."""

    granule_bytes = 512
    unsplit_bytes = 1 << 20

    def __init__(self, allocated: int) -> None:
        self._allocated = allocated

    def allocated_bytes(self) -> int:
        return self._allocated

    def reset_peak(self) -> None:
        """Its peaks are the same in every op."""

    def peak_bytes(self) -> int:
        return self._allocated + 300


def test_overhead_is_rounding_and_workspace_and_what_is_always_held() -> None:
    """Two storages: 100 bytes in slots 0 to 2, 600 in slot 1. Rounded: 512 and 1024."""
    profile = toy(10, 10, 10, storages=[resident("w", 100, 2), activation("x", 600, 1)])
    with_it = with_op_overhead(
        profile,
        granule_bytes=512,
        unsplit_bytes=600,
        held_bytes=7,
        workspaces_bytes=(0, 30, 40),
    )
    assert [slot.overhead_bytes for slot in with_it.slots] == [
        412 + 0 + 7,
        412 + 424 + 30 + 7,
        412 + 40 + 7,
        412 + 0 + 7,
    ]


def test_a_large_storage_may_get_a_block_that_is_not_split() -> None:
    """Of 600 bytes more than 599 are a large storage: 599 may be left unused in its block."""
    profile = toy(10, 10, 10, storages=[activation("x", 600, 1)])
    with_it = with_op_overhead(
        profile, granule_bytes=512, unsplit_bytes=599, held_bytes=0, workspaces_bytes=(0, 0, 0)
    )
    assert [slot.overhead_bytes for slot in with_it.slots] == [0, 424 + 599, 0, 0]


def test_a_workspace_is_what_lies_above_before_and_after() -> None:
    class Meter(Scripted):
        """Op 0 makes 50 bytes, op 1 frees 20."""

        allocated = iter((100, 150, 150, 130))
        peaks = iter((170, 155))

        def allocated_bytes(self) -> int:
            return next(self.allocated)

        def peak_bytes(self) -> int:
            return next(self.peaks)

    workspaces = OpWorkspaces(Meter(0))
    values = torch.ones(3)
    with workspaces:
        values.add_(1).mul_(2)
    assert workspaces.sizes_bytes() == (20, 5)
    workspaces.rewind(1)
    assert workspaces.sizes_bytes() == (20,)


def test_overhead_is_recorded_beyond_capacity() -> None:
    tools = Instruments(clock=CpuClock(), memory=Scripted(10**6), kernels=None)
    workload = two_layers()
    profile = beyond(workload, 10**5, instruments=tools)
    owned = owned_storages(workload.model, workload.optimizer)
    # Weights, momenta and gradients of 16 x 16 and 16 x 1 floats.
    held = 10**6 - sum(max(512, owner.storage.nbytes()) for owner in owned)
    with_ops = {op.slot for op in profile.ops}
    assert min(slot.overhead_bytes for slot in profile.slots) >= held
    assert min(profile.slots[t].overhead_bytes for t in with_ops) >= held + 300


def test_a_plan_made_beyond_capacity_is_proved() -> None:
    """The profile of a step that did not fit is as good as any other to plan for."""
    profile = recorded_beyond("unet3d")
    plan = solve(profile, budget_bytes=limit_bytes("unet3d"))
    report = prove(plan, build=BUILDERS["unet3d"], steps=2, timed_steps=1)
    assert report.passed
    assert report.out_of_memory_without_plan


@pytest.mark.gpu
def test_on_a_gpu_a_step_beyond_its_limit_is_recorded() -> None:
    """The same storages and anchors as resident, and a peak that holds for the resident step."""
    device = device_at_hand("cuda")
    workload = build_on(device, layers_on_device)
    resident_step = record_at_fixed_times(workload, source=SOURCE, link=FAST_LINK)
    limit = int(SHARE * peak_bytes(resident_step))
    swapped = beyond(build_on(device, layers_on_device), limit)
    assert swapped.storages == resident_step.storages
    assert [s.anchor for s in swapped.slots] == [s.anchor for s in resident_step.slots]
    assert peak_bytes(swapped) == pytest.approx(peak_bytes(resident_step), rel=0.05)
