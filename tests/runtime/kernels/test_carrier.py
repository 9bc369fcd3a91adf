"""What a launch hands to the device, with kernels that only write down how they were called."""

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from numba.core.errors import NumbaPerformanceWarning

from runtime.kernels.carrier import KernelLauncher
from runtime.kernels.cuda_carrier import launcher_of
from runtime.kernels.job import BatchTable, CopyJob, Grid, Kernel
from runtime.kernels.sources import SOURCES

JOB = CopyJob(source_address=0x1000, target_address=0x2000, size_bytes=30)
GRID = Grid(blocks=4, threads=256)
STREAM = 0xABC


class LoggingKernel:
    """A kernel that warns like numba of few blocks, and logs configurations and launches."""

    def __init__(self, kernel: Kernel, log: list[Any]) -> None:
        self._kernel = kernel
        self._log = log

    def __getitem__(self, configuration: tuple[int, int, str]) -> Callable[..., None]:
        warnings.warn("few blocks", NumbaPerformanceWarning, stacklevel=1)
        self._log.append(("configure", self._kernel, configuration))
        return lambda *arguments: self._log.append(("launch", self._kernel, arguments))


@pytest.fixture
def log() -> list[Any]:
    return []


@pytest.fixture
def launcher(log: list[Any]) -> KernelLauncher:
    return launcher_of({k: LoggingKernel(k, log) for k in Kernel}, "stream {:#x}".format)


def test_every_launch_hands_over_its_addresses(launcher: KernelLauncher, log: list[Any]) -> None:
    launcher.copy(JOB, GRID, STREAM)
    launcher.copy_batch(BatchTable(address=0x3000, rows=7), GRID, STREAM)
    launcher.pack(JOB, 0x5000, GRID, STREAM)
    launcher.unpack(JOB, GRID, STREAM)
    launches = [entry[1:] for entry in log if entry[0] == "launch"]
    assert launches == [
        (Kernel.COPY, (0x2000, 0x1000, 30)),
        (Kernel.BATCH, (0x3000, 7)),
        (Kernel.PACK, (0x2000, 0x1000, 30, 0x5000)),
        (Kernel.UNPACK, (0x2000, 0x1000, 30)),
    ]
    for kernel, arguments in launches:
        assert SOURCES[kernel].signature == f"void({', '.join(['int64'] * len(arguments))})"


def test_a_launch_is_configured_once_per_kernel_grid_and_stream(
    launcher: KernelLauncher, log: list[Any]
) -> None:
    wide = Grid(blocks=8, threads=256)
    for grid, stream in ((GRID, 1), (GRID, 1), (wide, 1), (GRID, 2), (wide, 1), (GRID, 1)):
        launcher.copy(JOB, Grid(blocks=grid.blocks, threads=grid.threads), stream)
    launcher.unpack(JOB, GRID, 1)
    assert [entry[1:] for entry in log if entry[0] == "configure"] == [
        (Kernel.COPY, (4, 256, "stream 0x1")),
        (Kernel.COPY, (8, 256, "stream 0x1")),
        (Kernel.COPY, (4, 256, "stream 0x2")),
        (Kernel.UNPACK, (4, 256, "stream 0x1")),
    ]
    assert sum(entry[0] == "launch" for entry in log) == 7


def test_threads_may_launch_at_once(launcher: KernelLauncher, log: list[Any]) -> None:
    """Autograd has a thread of its own for each device."""
    together = threading.Barrier(8)

    def launch() -> None:
        together.wait()
        for _ in range(50):
            launcher.copy(JOB, GRID, STREAM)

    threads = [threading.Thread(target=launch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(entry[0] == "launch" for entry in log) == 400
    assert sum(entry[0] == "configure" for entry in log) == 1
