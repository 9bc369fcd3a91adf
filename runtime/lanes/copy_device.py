"""What copies on each kind of device: its lanes, host memory and kernels.

The lanes keep no rate. Those of a replay, which on the emulated device do, come from
`runtime.replay.backend`.
"""

import math

import torch

from planner.plan.lanes import Direction
from profiles.schema.errors import CapacityError, SwapplanError
from runtime.host.host_pool import AllocatedHostPool, HostPool, PinnedHostPool
from runtime.kernels.carrier import INSTALL, KernelCarrier
from runtime.kernels.cuda_carrier import cuda_carrier
from runtime.lanes.emulated import EmulatedLane
from runtime.lanes.lane import CopyLane
from runtime.lanes.streams import DeviceStreams, StreamLane

Carriers = dict[Direction, KernelCarrier]


class EmulatedDevice:
    """The emulated accelerator: compute is the host, lanes are threads."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def lane(self, direction: Direction, carrier: KernelCarrier | None = None) -> CopyLane:
        """Returns a lane that copies as fast as it can; `carrier` is what carries by kernel."""
        return EmulatedLane(direction, math.inf, 0.0, carrier=carrier)

    def host_pool(self, size_bytes: int) -> HostPool:
        """Returns host memory; see `HostPool` for what is raised."""
        return HostPool(size_bytes)

    def carriers(self) -> Carriers:
        """Compiles the copy kernels and returns what carries by them.

        Raises:
            SwapplanError: There is nothing to compile them with.
        """
        try:
            from runtime.kernels.host_carrier import host_carrier
        except ImportError as error:
            raise SwapplanError(
                f"Copy kernels on 'cpu' need numba-cuda, found none ({error}). {INSTALL}, or solve "
                "with a link whose kernels were not measured."
            ) from error
        # One for each lane: its table is in use until its launch is over.
        return {direction: host_carrier() for direction in Direction}

    def free_bytes(self) -> int:
        """Returns what is left for this process, its allocator's spare blocks included.

        Raises:
            CapacityError: The device has no capacity of its own.
        """
        raise CapacityError(
            f"The {self._device.type!r} device is emulated and has no capacity of its own. Say "
            "which is meant with --limit, such as --limit 300MiB."
        )


class StreamingDevice:
    """An accelerator of torch, with the same methods: lanes are streams, host memory is pinned."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def lane(self, direction: Direction, carrier: KernelCarrier | None = None) -> CopyLane:
        """Returns a lane that is a stream."""
        return StreamLane(DeviceStreams(self._device, carrier), direction)

    def host_pool(self, size_bytes: int) -> HostPool:
        """Returns pinned host memory, by torch's allocator of it."""
        return AllocatedHostPool(size_bytes)

    def carriers(self) -> Carriers:
        """Returns what carries by kernel.

        Raises:
            SwapplanError: There is nothing: copy kernels are for CUDA.
        """
        raise SwapplanError(
            f"Copy kernels are for CUDA, and the {self._device.type!r} device has none. Solve with "
            "a link whose kernels were not measured."
        )

    def free_bytes(self) -> int:
        """Returns what the driver and the allocator have left."""
        free_bytes, _ = torch.accelerator.get_memory_info(self._device)
        reserved_bytes = torch.accelerator.memory_reserved(self._device)
        return free_bytes + reserved_bytes - torch.accelerator.memory_allocated(self._device)


class CudaDevice(StreamingDevice):
    """A GPU of CUDA: host memory is registered rather than allocated, and kernels copy, too."""

    def host_pool(self, size_bytes: int) -> HostPool:
        """Returns pinned host memory."""
        return PinnedHostPool(size_bytes, self._device)

    def carriers(self) -> Carriers:
        """Returns one carrier for both lanes: its tables are in use until an event."""
        return dict.fromkeys(Direction, cuda_carrier(self._device))


def copy_device(device: torch.device) -> EmulatedDevice | StreamingDevice:
    """Returns what copies on a device."""
    match device.type:
        case "cpu":
            return EmulatedDevice(device)
        case "cuda":
            return CudaDevice(device)
    return StreamingDevice(device)
