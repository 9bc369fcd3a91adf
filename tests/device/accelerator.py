"""The asynchronous device as torch has its accelerators: `torch.device("asyncdev")`.

The device ([Note: what is late]): an op returns at once with results of the right shape, and runs
when its stream, a thread, gets there. Copies between pinned host memory and the device keep the
rate and latency of a link. Freed memory is filled with a pattern in stream order, and can be had
again at once. Capacity is enforced. Random delays try orders that a quiet machine never shows, and
a log has every piece of work with the memory that it touches (`tests.device.races`).

There are two devices, and a process uses one of them, as workers do. Their memory is counted
together. Collectives have a stream of their own (`tests.device.collectives`).
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils import backend_registration

from tests.device import collectives
from tests.device.build import NAME, built

TOTAL_BYTES = 8 << 30


@cache
def accelerator() -> Any:
    """Has torch know the device; returns the extension, which sets and logs it.

    To be called before the first backward of the process.
    """
    backend_registration.rename_privateuse1_backend(NAME)
    extension = built()
    torch._register_device_module(NAME, _module(extension))
    backend_registration.generate_methods_for_privateuse1_backend()
    collectives.register(extension)
    extension.set_total(TOTAL_BYTES)
    return extension


def device() -> torch.device:
    """Returns the device."""
    accelerator()
    return torch.device(NAME, 0)


def _module(extension: Any) -> Any:
    """Returns what `torch.asyncdev` is: what torch and its users ask of a device's module."""

    def limit(share: float, device: object = None) -> None:
        extension.set_capacity(int(extension.total_bytes() * share))

    memory = torch.accelerator
    current = memory.current_device_index
    generators = tuple(map(extension.default_generator, range(extension.DEVICES)))

    def index_of(device: Any) -> int:
        index = device if device is None or isinstance(device, int) else torch.device(device).index
        return current() if index is None else index

    def generator(device: Any = None) -> torch.Generator:
        return generators[index_of(device)]

    return SimpleNamespace(
        __name__=f"torch.{NAME}",
        is_available=lambda: True,
        is_initialized=lambda: True,
        _initialized=True,  # torch's checkpointing restores generators of such a device alone
        device_count=lambda: extension.DEVICES,
        device=lambda device: memory.device_index(index_of(device)),
        current_device=current,
        set_device=memory.set_device_index,
        current_stream=memory.current_stream,
        Stream=lambda device=None, priority=0: torch.Stream(
            torch.device(NAME, index_of(device)), priority=priority
        ),
        stream=lambda stream: stream,
        Event=lambda: torch.Event(NAME),
        synchronize=memory.synchronize,
        get_amp_supported_dtype=lambda: [torch.float16, torch.bfloat16],
        _is_in_bad_fork=lambda: False,
        default_generators=generators,
        manual_seed=lambda seed: generator().manual_seed(seed),
        manual_seed_all=lambda seed: [one.manual_seed(seed) for one in generators],
        get_rng_state=lambda device=None: generator(device).get_state(),
        set_rng_state=lambda state, device=None: generator(device).set_state(state),
        get_device_name=lambda device=None: "asynchronous device",
        get_device_properties=lambda device=None: SimpleNamespace(
            name="asynchronous device", total_memory=extension.total_bytes()
        ),
        set_per_process_memory_fraction=limit,
        memory_allocated=memory.memory_allocated,
        memory_reserved=memory.memory_reserved,
        max_memory_allocated=memory.max_memory_allocated,
        max_memory_reserved=memory.max_memory_reserved,
        reset_peak_memory_stats=memory.reset_peak_memory_stats,
        empty_cache=memory.empty_cache,
    )
