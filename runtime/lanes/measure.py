"""Measures how fast this machine copies between device and host, with the lanes replay uses.

On the `cpu` device that is the most the emulated accelerator's lanes can do, with no rate to keep;
on CUDA it is what the copy engines do to and from pinned memory. Copy kernels are measured beside
them: on CUDA the Numba-CUDA kernels, on the `cpu` device the same source as the processor executes
it. A machine that has nothing to compile them with has none.

Buffers rotate through more memory than caches hold, as they do in training.

[Note: both at once] One thread issues the copies of both directions. Large ones are queued long
before they run: the other direction is given work that outlasts what is timed. Small ones are over
as soon as they are issued, however many were queued before: so the two are also issued in turns,
and what the host takes to issue the other direction's copies is part of what is measured, as it is
in training.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

from planner.plan.lanes import Direction
from profiles.hardware.links import MEASURED
from profiles.schema.errors import CapacityError, SwapplanError
from profiles.schema.link import CopyMethod, MethodRate
from profiles.schema.profile import Link, Provenance
from profiles.schema.progress import Progress, silent
from profiles.schema.units import NS_PER_US
from runtime.host.host_pool import HostStretch
from runtime.lanes.copy_device import Carriers, copy_device
from runtime.lanes.lane import CopyLane

LOG = logging.getLogger("swapplan")

SIZES_BYTES = tuple(4**power * 1024 for power in range(1, 9))
"""From 4 KiB to 64 MiB."""
KERNEL_SIZES_BYTES = SIZES_BYTES[:-1]
"""To 16 MiB: above, the copy engine's rate is what counts."""
FOOTPRINT_BYTES = 128 << 20
"""What the buffers at either end of one direction take together."""
MOST_COPIES = 64
"""Copies timed at once; fewer where they are large."""
LEAST_COPIES = 8
"""As many even of the largest, which use buffers again: what the host takes to issue the first and
to see the last one end counts for all of them."""
ROUNDS = 5
KERNEL_ROUNDS = 3
BACKGROUND_FACTOR = 3
"""The other direction is given work for so many times as long, alone, so that it outlasts."""
TOGETHER = {
    CopyMethod.DMA: 1,
    CopyMethod.VECTOR_KERNEL: 1,
    CopyMethod.BATCH_KERNEL: 32,
    CopyMethod.BITPACK_KERNEL: 1,
}
"""How many copies one launch carries."""

OPPOSITE = {Direction.D2H: Direction.H2D, Direction.H2D: Direction.D2H}


@dataclass(frozen=True, kw_only=True)
class SizeRates:
    """Measured rates of copies of one size, issued one right after the other.

    Attributes:
        size_bytes: Of each copy.
        d2h_bytes_per_us: To the host, alone.
        h2d_bytes_per_us: From the host, alone.
        d2h_shared_bytes_per_us: To the host, while copies from the host run.
        h2d_shared_bytes_per_us: From the host, while copies to the host run.
        lone_copy_us: From issuing one copy to its end; the slower direction.
    """

    size_bytes: int
    d2h_bytes_per_us: float
    h2d_bytes_per_us: float
    d2h_shared_bytes_per_us: float
    h2d_shared_bytes_per_us: float
    lone_copy_us: float

    @property
    def both_bytes_per_us(self) -> float:
        """Rate of both directions together while both run."""
        return self.d2h_shared_bytes_per_us + self.h2d_shared_bytes_per_us


class LaneBuffers:
    """Buffers at both ends of one direction, and its lane."""

    def __init__(self, device: torch.device, lane: CopyLane) -> None:
        self._lane = lane
        self._device = device
        self._pool = copy_device(device).host_pool(FOOTPRINT_BYTES)
        self._buffers: list[tuple[torch.UntypedStorage, HostStretch]] = []

    def lay_out(self, size_bytes: int) -> int:
        """Cuts the buffers for copies of a size; returns how many are timed at once."""
        count = min(MOST_COPIES, FOOTPRINT_BYTES // size_bytes)
        apart_bytes = FOOTPRINT_BYTES // count
        self._buffers = []
        for number in range(count):
            # Written, so that its pages are there.
            device_bytes = torch.ones(size_bytes, dtype=torch.uint8, device=self._device)
            host = self._pool.stretch(number * apart_bytes, size_bytes)
            self._buffers.append((device_bytes.untyped_storage(), host))
        return count

    def issue(
        self, copies: int, engine: CopyMethod = CopyMethod.DMA, together: int = 1, first: int = 0
    ) -> Callable[[], None]:
        """Issues so many copies; returns what blocks the host until they have ended.

        A launch carries as many `together`. Buffers take turns, beginning with the `first`.
        """
        in_flight = []
        for number in range(first, first + copies):
            storage, host = self._buffers[number % len(self._buffers)]
            in_flight.append(self._lane.issue(storage, host, engine))
            if (number + 1) % together == 0:
                self._lane.flush()
        self._lane.flush()

        def wait() -> None:
            # On CUDA it is compute that waits for a copy, not the host.
            self._lane.finish()
            for copy in in_flight:
                copy.wait()

        return wait


Buffers = Mapping[Direction, LaneBuffers]


@contextmanager
def _buffers(device: torch.device, carriers: Carriers | None = None) -> Iterator[Buffers]:
    """Buffers and lanes both ways, which end with it."""
    carriers = carriers or {}
    lanes = {d: copy_device(device).lane(d, carriers.get(d)) for d in Direction}
    try:
        yield {direction: LaneBuffers(device, lane) for direction, lane in lanes.items()}
    finally:
        for lane in lanes.values():
            lane.close()


def measure_link(
    device: torch.device,
    *,
    sizes_bytes: tuple[int, ...] = SIZES_BYTES,
    progress: Progress | None = None,
) -> tuple[SizeRates, ...]:
    """Measures copies of each size in each direction, alone and both at once.

    The sizes are at most `FOOTPRINT_BYTES` each.

    Raises:
        CapacityError: There is no memory for the buffers.
    """
    try:
        with _buffers(device) as buffers:
            return measure(buffers, sizes_bytes, progress or silent)
    except (SwapplanError, torch.OutOfMemoryError) as error:
        raise CapacityError(
            f"Measuring the link takes {4 * FOOTPRINT_BYTES} bytes of memory, which are not free. "
            "Close something, or name a link of the table."
        ) from error


def measure(
    buffers: Buffers, sizes_bytes: tuple[int, ...], progress: Progress
) -> tuple[SizeRates, ...]:
    """Measures copies of each size between given buffers; see `measure_link`."""
    sizes = _reported(sizes_bytes, "measuring the link", progress)
    return tuple(_size_rates(buffers, size_bytes) for size_bytes in sizes)


def measure_methods(
    device: torch.device,
    *,
    sizes_bytes: tuple[int, ...] = KERNEL_SIZES_BYTES,
    progress: Progress | None = None,
) -> tuple[MethodRate, ...]:
    """Measures each copy kernel at each size, and the copy engine beside them.

    Returns:
        The rates; none where the kernels cannot be compiled, which is logged with the reason.
    """
    try:
        carriers = copy_device(device).carriers()
    except SwapplanError as error:
        LOG.info("The copy engine will carry everything: %s", error)
        return ()
    sizes = _reported(sizes_bytes, "measuring copy kernels", progress or silent)
    with _buffers(device, carriers) as buffers:
        return tuple(_method_rate(buffers, engine, size) for size in sizes for engine in TOGETHER)


def link_from(rows: tuple[SizeRates, ...], engines: tuple[MethodRate, ...] = ()) -> Link:
    """Returns the link that rates by size of the copy engine, and of kernels, amount to.

    A copy takes `latency_us + size / rate` (`planner.plan.simulate`): the rates are those of the
    largest size, where the latency hardly counts; the latency is what a lone smallest copy takes
    beyond its bytes.
    """
    smallest, largest = rows[0], rows[-1]
    slower = min(largest.d2h_bytes_per_us, largest.h2d_bytes_per_us)
    alone_bytes_per_us = largest.d2h_bytes_per_us + largest.h2d_bytes_per_us
    shared = largest.both_bytes_per_us < alone_bytes_per_us
    return Link(
        name=MEASURED,
        d2h_bytes_per_us=largest.d2h_bytes_per_us,
        h2d_bytes_per_us=largest.h2d_bytes_per_us,
        both_bytes_per_us=largest.both_bytes_per_us if shared else None,
        latency_us=max(0.0, smallest.lone_copy_us - smallest.size_bytes / slower),
        engines=engines,
        provenance=Provenance.MEASURED,
    )


def _reported(sizes_bytes: tuple[int, ...], stage: str, progress: Progress) -> Iterator[int]:
    """The sizes, each reported when it begins, and the end of the last."""
    for done, size_bytes in enumerate(sizes_bytes):
        progress(stage, done, len(sizes_bytes))
        yield size_bytes
    progress(stage, len(sizes_bytes), len(sizes_bytes))


def _size_rates(buffers: Buffers, size_bytes: int) -> SizeRates:
    copies = max(LEAST_COPIES, *(each.lay_out(size_bytes) for each in buffers.values()))
    copy_us = {d: _copy_us(buffers[d], copies, ROUNDS) for d in Direction}
    shared_us = {}
    for direction, other in OPPOSITE.items():
        beside_each = math.ceil(max(1.0, copy_us[direction] / copy_us[other]))
        pair = buffers[direction], buffers[other]
        rounds = (_shared_copy_us(*pair, copies, beside_each) for _ in range(ROUNDS))
        shared_us[direction] = median(rounds)
    return SizeRates(
        size_bytes=size_bytes,
        d2h_bytes_per_us=size_bytes / copy_us[Direction.D2H],
        h2d_bytes_per_us=size_bytes / copy_us[Direction.H2D],
        d2h_shared_bytes_per_us=size_bytes / shared_us[Direction.D2H],
        h2d_shared_bytes_per_us=size_bytes / shared_us[Direction.H2D],
        lone_copy_us=max(_copy_us(buffers[d], 1, ROUNDS) for d in Direction),
    )


def _method_rate(buffers: Buffers, engine: CopyMethod, size_bytes: int) -> MethodRate:
    rates = {}
    for direction, each in buffers.items():
        copies = each.lay_out(size_bytes)
        copy_us = _copy_us(each, copies, KERNEL_ROUNDS, engine)
        rates[direction] = size_bytes / copy_us
    return MethodRate(
        engine=engine,
        size_bytes=size_bytes,
        together=TOGETHER[engine],
        d2h_bytes_per_us=rates[Direction.D2H],
        h2d_bytes_per_us=rates[Direction.H2D],
    )


def _copy_us(
    buffers: LaneBuffers, copies: int, rounds: int, engine: CopyMethod = CopyMethod.DMA
) -> float:
    """Median time of a copy among many issued one right after the other."""

    def round_us() -> float:
        start_ns = time.perf_counter_ns()
        buffers.issue(copies, engine, TOGETHER[engine])()
        return (time.perf_counter_ns() - start_ns) / NS_PER_US

    round_us()  # Touches every buffer, and wakes whatever sleeps.
    return median(round_us() for _ in range(rounds)) / copies


def _shared_copy_us(own: LaneBuffers, other: LaneBuffers, copies: int, beside_each: int) -> float:
    """The time of a copy while the other direction is busy; see [Note: both at once]."""
    waits = [other.issue(BACKGROUND_FACTOR * copies * beside_each)]
    own_waits = []
    start_ns = time.perf_counter_ns()
    for number in range(copies):
        waits.append(other.issue(beside_each, first=number * beside_each))
        own_waits.append(own.issue(1, first=number))
    for wait in own_waits:
        wait()
    taken_us = (time.perf_counter_ns() - start_ns) / NS_PER_US
    for wait in waits:
        wait()
    return taken_us / copies
