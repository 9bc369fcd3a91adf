"""Swapping on line: what leaves, what comes back, and in which order."""

import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from planner.plan.lanes import Direction
from profiles.hooks.named_storages import owned_storages
from profiles.recording.clocks import CpuClock, OpTimes
from profiles.schema.errors import CapacityError
from profiles.schema.link import CopyMethod
from runtime.beyond_capacity.online_swap import OnlineSwap
from runtime.beyond_capacity.second_try import SecondTry
from runtime.host.host_pool import HostFreeList, HostPool, HostStretch
from runtime.lanes.emulated import Copy, carry
from runtime.lanes.lane import Piece
from runtime.lanes.streams import StreamLane
from runtime.storage.accountant import Accountant
from tests.support.training.fake_streams import ComputeLog, FakeStreams, log_resizes
from tests.support.training.interrupting import Tracer
from tests.support.training.models import BUILDERS, seeded
from tests.support.training.recorded import (
    assert_all_resident,
    assert_same,
    limit_bytes,
    recorded,
    snapshot,
)

CPU = torch.device("cpu")
Moves = list[tuple[str, int]]
"""Direction and bytes of each copy, in order."""


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
        with accountant, SecondTry(swap.evict_all_but, [times], records=True), swap:
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
    log_resizes(monkeypatch, streams)
    workload, accountant = BUILDERS[name](), Accountant(CPU, limit_bytes(name))
    d2h, h2d = (StreamLane(streams, direction) for direction in Direction)
    free_list = HostFreeList(OneSlab(10 * recorded(name).peak_bytes).new)
    swap = OnlineSwap(CPU, accountant, d2h=d2h, h2d=h2d, free_list=free_list)
    for _ in range(2):
        accountant.memory.count_owned(owned_storages(workload.model, workload.optimizer))
        times = OpTimes(CpuClock())
        with (
            accountant,
            SecondTry(swap.evict_all_but, [times], records=True),
            ComputeLog(streams),
            swap,
        ):
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
    with accountant, on_line(accountant, moves):
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


def test_what_an_op_takes_while_it_runs_is_kept_free_as_far_as_anything_can_leave() -> None:
    """Room for 100 bytes. An addition is said to take 50 besides what it reads and makes."""
    accountant = Accountant(CPU, 100)
    moves: Moves = []
    swap = on_line(accountant, moves)
    swap.note_workspaces({"aten.add.Tensor": 50})
    swap.note_workspaces({"aten.add.Tensor": 20, "aten.sub.Tensor": 30})
    assert swap.workspaces_bytes == {"aten.add.Tensor": 50, "aten.sub.Tensor": 30}
    with accountant, swap:
        a = torch.ones(20, dtype=torch.uint8)
        b = torch.ones(40, dtype=torch.uint8)
        b.mul_(2)
        assert moves == [], "a product is not said to take any"
        c = a + 1
        assert moves == [("out", 40)]
        d = torch.ones(30, dtype=torch.uint8)
        assert moves == [("out", 40)], "nor do ones"
        e = d + 1
        assert moves == [("out", 40), ("out", 20), ("out", 20)], "60 and 50 are more than 100"
    assert not swap.fell_short
    swap.close()
    assert [tensor.sum().item() for tensor in (a, b, c, d, e)] == [20, 80, 40, 30, 60]


def test_what_was_refused_was_never_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some ops, an LSTM's among them, make more than fake tensors show: they are run twice."""
    monkeypatch.setattr("runtime.beyond_capacity.online_swap.output_sizes_bytes", lambda *_: (0, 0))
    accountant = Accountant(CPU, 100)
    moves: Moves = []
    swap = on_line(accountant, moves)
    with accountant, SecondTry(swap.evict_all_but, [], records=False), swap:
        a = torch.ones(60, dtype=torch.uint8)
        accountant.memory.open_slot()
        b = torch.ones(50, dtype=torch.uint8)
        assert moves == [("out", 60)]
        assert accountant.memory.peak_bytes == 60
        assert accountant.memory.slot_peak_bytes == 60
        del b
        a.add_(1)
    assert a.tolist() == [2] * 60


def test_a_storage_that_dies_on_the_host_leaves_nothing_behind() -> None:
    accountant = Accountant(CPU, 100)
    moves: Moves = []
    with accountant, on_line(accountant, moves):
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
    with accountant, on_line(accountant, moves) as swap:
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


@pytest.mark.parametrize("is_owned", [True, False])
def test_memory_that_processes_share_stays(is_owned: bool) -> None:
    """Moved, it would be shared no more. It counts only if the training owns it."""
    accountant = Accountant(CPU, 100)
    moves: Moves = []
    shared = torch.ones(60, dtype=torch.uint8).share_memory_()
    module = torch.nn.Module()
    module.register_buffer("shared", shared if is_owned else None)
    with accountant, on_line(accountant, moves) as swap:
        swap.begin_step(owned_storages(module, torch.optim.SGD([torch.nn.Parameter()])))
        shared.add_(1)
        other = torch.ones(30, dtype=torch.uint8)
        torch.ones(35, dtype=torch.uint8)
        assert moves == ([("out", 30)] if is_owned else [])
        assert swap.largest_need.size_bytes == (60 + 35 if is_owned else 35)
        assert not swap.fell_short
    assert shared.is_shared()
    assert other.numel() == 30


def test_what_lies_in_circles_is_looked_for_before_the_budget_is_given_up() -> None:
    accountant = Accountant(CPU, 100)
    moves: Moves = []
    with accountant, on_line(accountant, moves) as swap:
        gc.disable()
        try:
            fixed = torch.from_numpy(torch.ones(60, dtype=torch.uint8).numpy().copy())
            fixed.add_(1)
            circle: list[object] = [fixed]
            circle.append(circle)
            del circle, fixed
            torch.ones(45, dtype=torch.uint8)
        finally:
            gc.enable()
        assert not swap.fell_short


def test_what_finds_no_room_in_one_piece_is_done_again_without_what_it_had_made() -> None:
    accountant = Accountant(CPU, 100)
    moves: Moves = []
    live_bytes: list[int] = []

    def make() -> None:
        live_bytes.append(accountant.memory.live_bytes)
        made = torch.ones(30, dtype=torch.uint8)
        if len(live_bytes) == 1:
            raise torch.OutOfMemoryError("no room in one piece")
        del made

    with accountant, on_line(accountant, moves) as swap:
        idle = torch.ones(40, dtype=torch.uint8)
        kept = torch.ones(10, dtype=torch.uint8)
        swap.try_twice(make, {kept.untyped_storage()._cdata})
        assert ("out", 40) in moves
        assert live_bytes == [50, 10]
    assert idle.numel() == 40


def test_what_the_step_knows_nothing_of_is_part_of_what_it_needs() -> None:
    """As other models in the process have it; an allocator counts that, too."""
    accountant = Accountant(CPU, 100)
    moves: Moves = []
    with accountant, on_line(accountant, moves) as swap:
        # No op of the step's has made this one, or touches it.
        others = torch.UntypedStorage(30)
        accountant.memory.see(others)
        torch.ones(80, dtype=torch.uint8)
        assert swap.fell_short
        assert swap.largest_need.size_bytes == 30 + 80
    del others


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
    with times, accountant, on_line(accountant, moves):
        for size in (60, 50, 45):
            torch.ones(size, dtype=torch.uint8).add_(1)
            log.append(f"{len(moves)} moves")
        kept = [torch.ones(60, dtype=torch.uint8)]
        kept.append(torch.ones(60, dtype=torch.uint8))
    assert log[:2] == ["stamp", "stamp"]
    assert log.count("stamp") == 2 * len(times)
    assert len(moves) == 1


class Failing(TorchDispatchMode):
    """A device that runs out of memory in every so many-th op, once each, perhaps in its midst."""

    def __init__(self, every: int, *, late: bool = False) -> None:
        super().__init__()
        self.failed = 0
        self._every, self._late = every, late
        self._ops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._ops += 1
        if self._ops % self._every == 0:
            self.failed += 1
            if self._late:
                func(*args, **(kwargs or {}))
            raise torch.OutOfMemoryError("no workspace")
        return func(*args, **(kwargs or {}))


def test_an_op_without_room_for_its_workspace_runs_again_alone() -> None:
    evicted: list[set[int]] = []
    failing, times = Failing(every=2), OpTimes(CpuClock())
    left = torch.arange(6.0)
    with times, failing, SecondTry(evicted.append, [times], records=True):
        product = left * 2
        total = product + left
    assert total.tolist() == [0.0, 3.0, 6.0, 9.0, 12.0, 15.0]
    assert failing.failed == 1
    assert evicted == [{product.untyped_storage()._cdata, left.untyped_storage()._cdata}]
    assert len(times) == len(times.durations_us()) == 2


def test_an_op_that_cannot_run_twice_is_named() -> None:
    values = torch.ones(3)
    told = pytest.raises(CapacityError, match=r"aten\.add_.* cannot be run twice")
    with told, Failing(every=1), SecondTry(lambda kept: None, [], records=True):
        values.add_(1)


def test_an_op_that_runs_again_draws_the_same_numbers() -> None:
    """From whichever generator, and whatever it had drawn when it found no room."""

    def drawn() -> list[torch.Tensor]:
        torch.manual_seed(2)
        own = seeded(1)
        return [torch.rand_like(torch.ones(3)), torch.rand(3, generator=own), torch.rand(2)]

    expected, failing = drawn(), Failing(every=2, late=True)
    with failing, SecondTry(lambda kept: None, [], records=False):
        found = drawn()
    assert failing.failed == 3
    assert all(map(torch.equal, found, expected))


def test_an_op_that_fails_again_is_named() -> None:
    values = torch.ones(3)
    told = pytest.raises(CapacityError, match=r"aten\.mul\.Tensor does not fit .* on the host")
    with told, Failing(every=1), SecondTry(lambda kept: None, [], records=True):
        values * 2


@pytest.mark.parametrize("op", [lambda values: values.add_(1), lambda values: values * 2])
def test_where_nothing_is_recorded_trainings_see_the_error_they_know(
    op: Callable[[torch.Tensor], object],
) -> None:
    values = torch.ones(3)
    told = pytest.raises(torch.OutOfMemoryError, match="no workspace")
    with told, Failing(every=1), SecondTry(lambda kept: None, [], records=False):
        op(values)


def test_what_is_brought_back_for_good_gives_its_host_memory_to_the_next() -> None:
    made: list[int] = []

    def new_pool(size_bytes: int) -> HostPool:
        made.append(size_bytes)
        return HostPool(size_bytes)

    d2h, h2d = (LoggingLane(direction, []) for direction in Direction)
    free_list = HostFreeList(new_pool)
    swap = OnlineSwap(CPU, Accountant(CPU, None), d2h=d2h, h2d=h2d, free_list=free_list)
    values = torch.arange(6.0)
    for _ in range(3):
        swap.take_in(values.untyped_storage())
        swap.evict_all_but(set())
        assert values.untyped_storage().nbytes() == 0
        swap.close()
    assert made == [values.nbytes]
    assert values.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_an_interrupt_never_has_host_memory_given_back_twice() -> None:
    """Before each instruction, one by one. Two storages that share it overwrite each other."""
    at = 0
    while True:
        at += 1
        d2h, h2d = (LoggingLane(direction, []) for direction in Direction)
        free_list = HostFreeList(HostPool)
        swap = OnlineSwap(CPU, Accountant(CPU, None), d2h=d2h, h2d=h2d, free_list=free_list)
        values = torch.arange(6.0)
        swap.take_in(values.untyped_storage())
        swap.evict_all_but(set())
        tracer = Tracer([at])
        with suppress(KeyboardInterrupt), tracer.on():
            swap.hold(values.untyped_storage()._cdata)
        swap.close()
        assert values.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], tracer.raised
        first, second = (free_list.take(values.nbytes) for _ in range(2))
        assert first.pool is not second.pool or first.offset_bytes != second.offset_bytes
        if not tracer.raised:
            break
    assert at > 20
