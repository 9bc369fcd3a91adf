"""Measuring the link: the arithmetic on a machine of known rates, and the lanes for real."""

import math
from collections.abc import Callable
from typing import cast

import pytest
import torch

from planner.cli.request import is_to_be_measured
from planner.plan.lanes import Direction
from profiles.schema.errors import CapacityError
from profiles.schema.link import CopyMethod
from profiles.schema.profile import Provenance
from profiles.schema.profile_file import read_profile
from profiles.schema.progress import silent
from profiles.schema.units import NS_PER_US
from runtime.cli import main
from runtime.host.host_pool import HostStretch, PinnedHostPool
from runtime.lanes import measure as link_measure
from runtime.lanes.copy_device import copy_device
from runtime.lanes.emulated import Copy, EmulatedLane
from runtime.lanes.measure import (
    FOOTPRINT_BYTES,
    MOST_COPIES,
    ROUNDS,
    SIZES_BYTES,
    LaneBuffers,
    SizeRates,
    link_from,
    measure,
    measure_link,
    measure_methods,
)
from runtime.lanes.streams import StreamLane
from tests.support.training.fake_streams import FakeStreams
from tests.support.training.fake_time import HeldTime, held_time

KIB, MIB = 1 << 10, 1 << 20
SIZE_BYTES = 64 * KIB
CPU = torch.device("cpu")


class Machine:
    """A machine on which time passes only while somebody waits for copies.

    Each copy takes a latency and its bytes at the direction's rate; while both directions have
    work they go at their shared rates.
    """

    def __init__(
        self, alone: dict[Direction, float], shared: dict[Direction, float], latency_us: float
    ) -> None:
        self.alone, self.shared, self.latency_us = alone, shared, latency_us
        self.issue_us = 0.0
        self.now_us = 0.0
        self.left_us = dict.fromkeys(Direction, 0.0)
        """Work of each direction still to do, in microseconds at its own rate."""

    def perf_counter_ns(self) -> int:
        return int(self.now_us * NS_PER_US)

    def issue(self) -> None:
        """Passes the time that the host takes to issue a copy; both directions get on meanwhile."""
        self.now_us += self.issue_us
        for each in Direction:
            self.left_us[each] = max(0.0, self.left_us[each] - self.issue_us)

    def wait(self, direction: Direction) -> None:
        """Passes time until a direction is done; the other gets on meanwhile."""
        slowing = {d: self.alone[d] / self.shared[d] for d in Direction}
        together_us = min(self.left_us[d] * slowing[d] for d in Direction)
        for each in Direction:
            self.left_us[each] -= together_us / slowing[each]
        rest_us = self.left_us[direction]
        self.now_us += together_us + rest_us
        self.left_us[direction] = 0.0


class FakeBuffers:
    """One direction of the machine."""

    def __init__(self, machine: Machine, direction: Direction) -> None:
        self._machine = machine
        self._direction = direction
        self._size_bytes = 0

    def lay_out(self, size_bytes: int) -> int:
        self._size_bytes = size_bytes
        return 4

    def issue(
        self,
        copies: int,
        engine: CopyMethod = CopyMethod.DMA,
        together: int = 1,
        first: int = 0,
    ) -> Callable[[], None]:
        copy_us = self._machine.latency_us + self._size_bytes / self._machine.alone[self._direction]
        for _ in range(copies):
            self._machine.issue()
            self._machine.left_us[self._direction] += copy_us
        return lambda: self._machine.wait(self._direction)


def measured(machine: Machine, *sizes_bytes: int) -> tuple[SizeRates, ...]:
    ends = {direction: FakeBuffers(machine, direction) for direction in Direction}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link_measure, "time", machine)
        return measure(cast(dict[Direction, LaneBuffers], ends), sizes_bytes, silent)


def machine(d2h: float, h2d: float, share: float, latency_us: float = 0.0) -> Machine:
    alone = {Direction.D2H: d2h, Direction.H2D: h2d}
    return Machine(alone, {d: share * rate for d, rate in alone.items()}, latency_us)


@pytest.mark.parametrize(("d2h", "h2d"), [(1000.0, 1000.0), (400.0, 1000.0), (1000.0, 100.0)])
@pytest.mark.parametrize("share", [1.0, 0.7, 0.35])
def test_each_direction_alone_and_beside_the_other(d2h: float, h2d: float, share: float) -> None:
    """However unlike they are, the one that is timed never runs alone when it should not."""
    (row,) = measured(machine(d2h, h2d, share), MIB)
    assert row.d2h_bytes_per_us == pytest.approx(d2h, rel=1e-3)
    assert row.h2d_bytes_per_us == pytest.approx(h2d, rel=1e-3)
    assert row.d2h_shared_bytes_per_us == pytest.approx(share * d2h, rel=1e-3)
    assert row.h2d_shared_bytes_per_us == pytest.approx(share * h2d, rel=1e-3)
    assert row.both_bytes_per_us == pytest.approx(share * (d2h + h2d), rel=1e-3)


def test_small_copies_share_the_thread_that_issues_them() -> None:
    """Each is over before the next is issued: nothing that was queued before runs beside it."""
    busy = machine(1000.0, 1000.0, 1.0)
    busy.issue_us = 10.0
    (row,) = measured(busy, KIB)
    assert row.d2h_bytes_per_us == pytest.approx(KIB / 10.0, rel=0.05)
    assert row.d2h_shared_bytes_per_us == pytest.approx(KIB / 20.0, rel=0.05)
    assert row.both_bytes_per_us == pytest.approx(KIB / 10.0, rel=0.05)


def test_the_link_predicts_the_copies_it_was_made_from() -> None:
    slow = machine(2000.0, 1000.0, 0.6, latency_us=25.0)
    sizes = (4 * KIB, MIB, 64 * MIB)
    link = link_from(measured(slow, *sizes))
    assert link.provenance is Provenance.MEASURED
    assert link.name == "measured"
    assert link.latency_us == pytest.approx(25.0, rel=1e-2)
    assert link.both_bytes_per_us == pytest.approx(0.6 * 3000.0, rel=1e-2)
    for size in sizes:
        for rate, true_rate in ((link.d2h_bytes_per_us, 2000), (link.h2d_bytes_per_us, 1000)):
            predicted_us = link.latency_us + size / rate
            assert predicted_us == pytest.approx(25.0 + size / true_rate, rel=1e-2)


def test_directions_that_do_not_slow_each_other_have_no_joint_rate() -> None:
    rates = SizeRates(
        size_bytes=MIB,
        d2h_bytes_per_us=1000.0,
        h2d_bytes_per_us=1000.0,
        d2h_shared_bytes_per_us=1000.0,
        h2d_shared_bytes_per_us=1001.0,
        lone_copy_us=1.0,
    )
    link = link_from((rates,))
    assert link.both_bytes_per_us is None
    assert link.latency_us == 0.0, "a lone copy seemed faster than its rate: not less than no time"


@pytest.fixture(name="held")
def _held(monkeypatch: pytest.MonkeyPatch) -> HeldTime:
    return held_time(monkeypatch)


def test_the_lanes_are_those_of_replay(held: HeldTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real lanes, real memory, in time that only the lanes' own sleeping takes."""
    held.pass_on()
    copy_us = {Direction.D2H: 100 + SIZE_BYTES / 200, Direction.H2D: 100 + SIZE_BYTES / 400}
    lanes = {
        Direction.D2H: EmulatedLane(Direction.D2H, 200, 100),
        Direction.H2D: EmulatedLane(Direction.H2D, 400, 100),
    }
    ends = {direction: LaneBuffers(CPU, lane) for direction, lane in lanes.items()}
    monkeypatch.setattr(link_measure, "time", held)
    (row,) = measure(ends, (SIZE_BYTES,), silent)
    for lane in lanes.values():
        lane.close()
    assert row.d2h_bytes_per_us == pytest.approx(SIZE_BYTES / copy_us[Direction.D2H], rel=1e-5)
    assert row.h2d_bytes_per_us == pytest.approx(SIZE_BYTES / copy_us[Direction.H2D], rel=1e-5)
    assert row.lone_copy_us == pytest.approx(copy_us[Direction.D2H], rel=1e-5)


@pytest.mark.parametrize("direction", Direction)
def test_the_emulated_device_is_measured_without_a_rate_to_keep(
    direction: Direction, held: HeldTime
) -> None:
    """Or every measurement would find the rate that the lane was set to."""
    lane = copy_device(CPU).lane(direction)
    ends = LaneBuffers(CPU, lane)
    ends.issue(ends.lay_out(KIB))()
    lane.close()
    assert (held.sleeps, held.now_ns) == (0, 0)


def test_measuring_the_emulated_device() -> None:
    told: list[tuple[str, int, int]] = []
    rows = measure_link(CPU, sizes_bytes=(4 * KIB, MIB), progress=lambda *words: told.append(words))
    assert [row.size_bytes for row in rows] == [4 * KIB, MIB]
    assert told == [("measuring the link", done, 2) for done in range(3)]
    for row in rows:
        assert row.d2h_bytes_per_us > 0
        assert row.h2d_bytes_per_us > 0
        assert row.both_bytes_per_us > 0
        assert row.lone_copy_us > 0


def test_copies_rotate_through_their_buffers() -> None:
    issued: list[tuple[int, int]] = []

    class Noting(EmulatedLane):
        def issue(
            self,
            storage: torch.UntypedStorage,
            host: HostStretch,
            engine: CopyMethod = CopyMethod.DMA,
        ) -> Copy:
            issued.append((storage.data_ptr(), host.offset_bytes))
            return super().issue(storage, host, engine)

    lane = Noting(Direction.D2H, math.inf, 0.0)
    ends = LaneBuffers(CPU, lane)
    count = ends.lay_out(32 * MIB)
    assert count == FOOTPRINT_BYTES // (32 * MIB)
    ends.issue(2 * count)()
    assert len(set(issued)) == count
    assert issued[:count] == issued[count:]
    assert ends.lay_out(KIB) == MOST_COPIES
    lane.close()


def test_every_size_fits_the_footprint() -> None:
    assert all(size <= FOOTPRINT_BYTES for size in SIZES_BYTES)
    assert SIZES_BYTES[0] == 4 * KIB
    assert ROUNDS % 2, "a median of an odd number is one of them"


def test_no_memory_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_measure, "FOOTPRINT_BYTES", 1 << 60)
    with pytest.raises(CapacityError, match="Close something"):
        measure_link(CPU)


def test_lanes_that_are_streams_are_measured_again_and_again() -> None:
    """Waiting on the host until a stream is empty does not close its lane."""
    streams = FakeStreams()
    buffers = {d: LaneBuffers(CPU, StreamLane(streams, d)) for d in Direction}
    rows = measure(buffers, (KIB, 4 * KIB), silent)
    assert [row.size_bytes for row in rows] == [KIB, 4 * KIB]
    assert sum(entry[0] == "finish" for entry in streams.log) > 2 * ROUNDS


@pytest.mark.parametrize(
    ("device", "name", "d2h", "expected"),
    [
        ("cpu", None, None, False),
        ("cpu", "measured", None, True),
        ("cuda", None, None, True),
        ("cuda", "pcie4-x16", None, False),
        ("cuda", None, "12GB/s", False),
    ],
)
def test_when_the_link_is_measured(
    device: str, name: str | None, d2h: str | None, expected: bool
) -> None:
    assert is_to_be_measured(device, name, d2h, None) is expected


@pytest.fixture(name="quick")
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sizes and little memory: the command, not the figures."""
    monkeypatch.setattr(link_measure, "FOOTPRINT_BYTES", 4 * MIB)
    monkeypatch.setattr(
        link_measure.measure_link,
        "__kwdefaults__",
        {"sizes_bytes": (4 * KIB, MIB), "progress": None},
    )
    monkeypatch.setattr(
        measure_methods, "__kwdefaults__", {"sizes_bytes": (4 * KIB,), "progress": None}
    )


@pytest.mark.usefixtures("quick")
def test_plan_link_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["link"]) == 0
    printed = capsys.readouterr().out
    for word in ("4.00 KiB", "1.00 MiB", "both together", "(measured)", "As a link", "best"):
        assert word in printed


TRAIN = """
import torch


def train():
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rows = torch.ones(256, 64)

    def step():
        optimizer.zero_grad()
        loss = model(rows).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return model, optimizer, step
"""


@pytest.fixture(name="train")
def _train(tmp_path, monkeypatch) -> str:  # type: ignore[no-untyped-def]  # pytest's own types
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    return "train.py:train"


@pytest.mark.usefixtures("quick")
def test_a_measured_link_is_stored_in_the_profile(train: str) -> None:
    assert main(["profile", train, "-o", "p.json", "--link", "measured"]) == 0
    link = read_profile("p.json").link
    assert (link.name, link.provenance) == ("measured", Provenance.MEASURED)


def test_a_profile_beyond_capacity_from_the_command_line(
    train: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["profile", train, "--beyond-capacity", "--limit"]
    assert main([*words, "200KiB", "-o", "p.json"]) == 0
    assert "the sum of its ops" in capsys.readouterr().out
    assert read_profile("p.json").link.name == "cpu-emulated"
    assert main([*words, "100KiB", "-o", "p.json"]) == 2
    assert "KiB on the device at once, the limit is 100.00 KiB" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--limit", "1MiB"], "Add --beyond-capacity"),
        (["--beyond-capacity"], "needs a capacity"),
        (["--beyond-capacity", "--limit", "0"], "--limit is '0', expected a size"),
        (["--link", "measured", "--d2h-bandwidth", "1GB/s"], "sets the rates already"),
    ],
)
def test_options_that_do_not_go_together(
    train: str, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", train, "-o", "p.json", *words]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


@pytest.mark.gpu
def test_on_a_gpu_the_copy_engines_are_measured() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    assert isinstance(copy_device(device).lane(Direction.D2H), StreamLane)
    assert isinstance(copy_device(device).host_pool(MIB), PinnedHostPool)
    rows = measure_link(device)
    assert [row.size_bytes for row in rows] == list(SIZES_BYTES)
    assert all(row.d2h_bytes_per_us > 0 and row.h2d_bytes_per_us > 0 for row in rows)
