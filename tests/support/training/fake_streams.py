"""A stream device that proves order instead of racing: copies happen at once, clocks decide.

Every stream has a vector clock. Work on a stream ticks it; an event is a copy of it; waiting for an
event takes the later of both, entry by entry. Two accesses to the same bytes, one of them a write,
must be ordered by those clocks: if they are not, a real device may run them in either order.
"""

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from planner.plan.lanes import Direction
from planner.plan.plan import Plan
from profiles.hooks.dispatch import is_bookkeeping, storages_in, storages_of
from profiles.schema.link import CopyMethod
from runtime.host.host_pool import HostPool
from runtime.kernels.carrier import KernelCarrier
from runtime.kernels.host_carrier import host_carrier
from runtime.lanes.lane import Piece
from runtime.lanes.streams import Launch, StreamCopy, StreamLane
from runtime.replay import stepper
from runtime.replay.backend import Backend, Watch
from runtime.storage.accountant import Accountant

Clock = dict[int, int]
COMPUTE = 0


@dataclass(frozen=True)
class Access:
    """Bytes touched by a stream; device bytes are named by storage, host bytes by offset."""

    what: str
    place: int
    first: int
    end: int
    writes: bool
    stream: int
    time: int

    def conflicts(self, other: "Access") -> bool:
        same = self.place == other.place and self.first < other.end and other.first < self.end
        return same and (self.writes or other.writes) and self.stream != other.stream


@dataclass
class FakeStreams:
    """`runtime.lanes.streams.StreamDevice` on the CPU.

    Attributes:
        log: What was asked for, in order.
        races: Pairs of accesses that nothing orders.
        current: The stream that compute is on.
        launches: What carried copies, and how many in one launch.
    """

    log: list[tuple[Any, ...]] = field(default_factory=list)
    races: list[str] = field(default_factory=list)
    current: int = COMPUTE
    launches: list[tuple[CopyMethod, int]] = field(default_factory=list)
    _kernels: KernelCarrier | None = None
    _computing: list[int] = field(default_factory=lambda: [COMPUTE])
    _clocks: list[Clock] = field(default_factory=lambda: [{COMPUTE: 0}])
    _events: dict[int, Clock] = field(default_factory=dict)
    _accesses: dict[int, list[Access]] = field(default_factory=dict)

    def compute_streams(self) -> tuple[int, ...]:
        self.see_stream()
        return tuple(self._computing)

    def see_stream(self) -> None:
        if self.current not in self._computing:
            self._computing.append(self.current)

    def new_stream(self) -> int:
        self._clocks.append({len(self._clocks): 0})
        return len(self._clocks) - 1

    def record(self, stream: int) -> int:
        event = len(self._events)
        self._events[event] = dict(self._clocks[stream])
        self.log.append(("record", stream))
        return event

    def wait(self, stream: int, event: int) -> None:
        clock = self._clocks[stream]
        for other, time in self._events[event].items():
            clock[other] = max(clock.get(other, 0), time)
        self.log.append(("wait", stream))

    def recycle(self, event: int) -> None:
        # Waiting for it once more would refer to whatever it is recorded for next.
        self._events.pop(event)
        self._events[event] = {}

    def copy(
        self, stream: int, pieces: Sequence[Piece], direction: Direction, engine: CopyMethod
    ) -> None:
        to_host = direction is Direction.D2H
        for storage, host, _ in pieces:
            self.log.append((direction.value, stream))
            first, end = host.offset_bytes, host.offset_bytes + host.size_bytes
            self.access(stream, direction.value, storage._cdata, 0, 1, writes=not to_host)
            self.access(stream, direction.value, -1, first, end, writes=to_host)
        self.launches.append((engine, len(pieces)))
        if engine is CopyMethod.DMA:
            ((_, host, device),) = pieces
            pool = host.address
            ctypes.memmove(*((pool, device) if to_host else (device, pool)), host.size_bytes)
        else:
            jobs = [piece.job(direction) for piece in pieces]
            self._carrier().carry(engine, jobs, to_host=to_host)

    def _carrier(self) -> KernelCarrier:
        if self._kernels is None:
            self._kernels = host_carrier()
        return self._kernels

    def finish(self, stream: int) -> None:
        self.log.append(("finish", stream))

    def access(
        self, stream: int, what: str, place: int, first: int, end: int, *, writes: bool
    ) -> None:
        """Notes an access and finds the earlier ones that nothing orders before it."""
        clock = self._clocks[stream]
        clock[stream] += 1
        now = Access(what, place, first, end, writes, stream, clock[stream])
        earlier = self._accesses.setdefault(place, [])
        for access in earlier:
            if access.conflicts(now) and access.time > clock.get(access.stream, 0):
                self.races.append(f"{what} on stream {stream} races {access.what}")
        # Accesses that this one is ordered after and covers cannot race anything later first.
        if writes:
            earlier[:] = [a for a in earlier if not (first <= a.first and a.end <= end)]
        earlier.append(now)

    def compute(self, what: str, storage: torch.UntypedStorage, *, writes: bool) -> None:
        """Notes that compute touches a storage."""
        self.access(self.current, what, storage._cdata, 0, 1, writes=writes)


class ComputeLog(TorchDispatchMode):
    """Tells the fake what every op of the step touches."""

    def __init__(self, streams: FakeStreams) -> None:
        super().__init__()
        self._streams = streams

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if not is_bookkeeping(func):
            for storage, writes in storages_in(func, args, kwargs).items():
                self._streams.compute(str(func), storage, writes=writes)
        result = func(*args, **kwargs)
        for storage in storages_of(result):
            self._streams.compute(str(func), storage, writes=True)
        return result


LaneMaker = Callable[[FakeStreams, Direction], StreamLane]


def put_on_streams(
    monkeypatch: pytest.MonkeyPatch, plan: Plan, make_lane: LaneMaker = StreamLane
) -> FakeStreams:
    """Has replays use lanes on a fake device, as on a GPU, and returns that device."""
    streams = FakeStreams()
    backend = Backend(
        d2h=make_lane(streams, Direction.D2H),
        h2d=make_lane(streams, Direction.H2D),
        pool=HostPool(plan.host_pool_bytes),
        watch=Watch.EVERY_STEP,
        budget_bytes=plan.budget_bytes,
        streams=streams,
    )
    monkeypatch.setattr(stepper, "backend_for", lambda *_: backend)
    log_resizes(monkeypatch, streams)
    return streams


def log_resizes(monkeypatch: pytest.MonkeyPatch, streams: FakeStreams) -> None:
    """Tells the fake wherever device bytes are given back or taken."""
    for method, what in (("give_back", "release"), ("take", "swap-in")):
        logged = _logging(streams, getattr(Accountant, method), what)
        monkeypatch.setattr(Accountant, method, logged)


def _logging(streams: FakeStreams, method: Callable[..., None], what: str) -> Callable[..., None]:
    def logged(accountant: Any, storage: torch.UntypedStorage, *sizes: int) -> None:
        streams.compute(what, storage, writes=True)
        method(accountant, storage, *sizes)

    return logged


class NeverWaitsForCompute(StreamLane):
    """Planted fault: a copy starts before compute has finished with the bytes."""

    def _send(self, launch: Launch) -> None:
        self._copy(launch)
        launch.ended = self._device.record(self._stream)


class ComputeNeverWaits(StreamLane):
    """Planted fault: compute goes on before the copy has ended."""

    def let_compute_wait(self, launch: Launch, copy: StreamCopy) -> None:
        self.flush()
