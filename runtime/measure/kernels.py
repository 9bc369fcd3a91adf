"""Measures how fast copy kernels are on this machine, with the lanes that replay uses.

On CUDA these are the Numba-CUDA kernels to and from pinned memory; on the `cpu` device the same
source as the processor executes it. A machine that has nothing to compile them with has none.
"""

import logging
import time
from collections.abc import Callable
from statistics import median

import torch

from planner.plan.lanes import Direction
from profiles.schema.errors import SwapplanError
from profiles.schema.link import CopyMethod, MethodRate
from profiles.schema.progress import Progress, silent
from runtime.kernels.carrier import KernelCarrier
from runtime.kernels.cuda_carrier import cuda_carrier
from runtime.kernels.host_carrier import host_carrier
from runtime.lanes.emulated import NS_PER_US
from runtime.lanes.make_lane import unpaced_lane
from runtime.measure.link import Ends

LOG = logging.getLogger("swapplan")

SIZES_BYTES = tuple(4**power * 1024 for power in range(1, 8))
"""From 4 KiB to 16 MiB: above, the copy engine's rate is what counts."""
TOGETHER = {
    CopyMethod.DMA: 1,
    CopyMethod.VECTOR_KERNEL: 1,
    CopyMethod.BATCH_KERNEL: 32,
    CopyMethod.BITPACK_KERNEL: 1,
}
"""How many copies one launch carries."""
ROUNDS = 3

Carriers = dict[Direction, KernelCarrier]


def measure_methods(
    device: torch.device,
    *,
    sizes_bytes: tuple[int, ...] = SIZES_BYTES,
    progress: Progress | None = None,
) -> tuple[MethodRate, ...]:
    """Measures each kernel at each size.

    Args:
        device: The device.
        sizes_bytes: Device bytes of each copy.
        progress: Told of every size.

    Returns:
        The rates; none where the kernels cannot be compiled, which is logged with the reason.
    """
    try:
        carriers = _carriers(device)
    except SwapplanError as error:
        LOG.info("The copy engine will carry everything: %s", error)
        return ()
    lanes = {d: unpaced_lane(device, d, carriers[d]) for d in Direction}
    tell, rates = progress or silent, []
    try:
        ends = {d: Ends(device, d, lane) for d, lane in lanes.items()}
        for done, size_bytes in enumerate(sizes_bytes):
            tell("measuring copy kernels", done, len(sizes_bytes))
            rates += [_measured(ends, engine, size_bytes) for engine in TOGETHER]
        tell("measuring copy kernels", len(sizes_bytes), len(sizes_bytes))
    finally:
        for lane in lanes.values():
            lane.close()
    return tuple(rates)


def _carriers(device: torch.device) -> Carriers:
    if device.type == "cuda":
        return dict.fromkeys(Direction, cuda_carrier(device))
    return {direction: host_carrier() for direction in Direction}


def _measured(ends: dict[Direction, Ends], engine: CopyMethod, size_bytes: int) -> MethodRate:
    rates = {
        direction: size_bytes / _copy_us(ends[direction], engine, size_bytes)
        for direction in Direction
    }
    return MethodRate(
        engine=engine,
        size_bytes=size_bytes,
        together=TOGETHER[engine],
        d2h_bytes_per_us=rates[Direction.D2H],
        h2d_bytes_per_us=rates[Direction.H2D],
    )


def _copy_us(
    end: Ends,
    engine: CopyMethod,
    size_bytes: int,
    now_ns: Callable[[], int] = time.perf_counter_ns,
) -> float:
    """Median time of a copy among many issued one right after the other."""
    copies = end.lay_out(size_bytes)

    def round_us() -> float:
        start_ns = now_ns()
        end.issue(copies, engine, TOGETHER[engine])()
        return (now_ns() - start_ns) / NS_PER_US

    round_us()  # Touches every buffer, and wakes whatever sleeps.
    return median(round_us() for _ in range(ROUNDS)) / copies
