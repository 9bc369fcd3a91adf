"""Lanes that copy as fast as they can, whatever a link would allow."""

import math

import torch

from planner.plan.lanes import Direction
from runtime.host.host_pool import HostPool, PinnedHostPool
from runtime.kernels.carrier import KernelCarrier
from runtime.lanes.cuda import StreamLane
from runtime.lanes.emulated import Lane
from runtime.lanes.lane import CopyLane
from runtime.lanes.streams import CudaStreams


def unpaced_lane(
    device: torch.device, direction: Direction, carrier: KernelCarrier | None = None
) -> CopyLane:
    """Returns a lane of the kind that replays on this device use, without a rate to keep.

    Args:
        device: The device.
        direction: Which way.
        carrier: What carries by kernel; None if nothing is.
    """
    if device.type == "cuda":
        return StreamLane(CudaStreams(device, carrier), direction)
    return Lane(direction, math.inf, 0.0, carrier=carrier)


def host_pool(device: torch.device, size_bytes: int) -> HostPool:
    """Returns host memory of the kind that replays on this device use.

    Raises:
        SwapplanError: The host has not enough free memory, or may not lock that much.
    """
    return PinnedHostPool(size_bytes, device) if device.type == "cuda" else HostPool(size_bytes)
