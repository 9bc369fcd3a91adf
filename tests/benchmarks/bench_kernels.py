"""How fast the copy kernels are: on the CPU, and on a device against its copy engine.

    python -m tests.benchmarks.bench_kernels

The CPU runs the kernels' source thread after thread; its figures only show that the source does
no needless work. What counts is printed where there is a CUDA device: rates by size and grid,
many small storages in one launch, and masks as bits. All figures are measured; 1 GB is 1e9 bytes.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from runtime.kernels import host_carrier as kernel_cpu
from runtime.kernels.carrier import KernelLauncher
from runtime.kernels.cuda_carrier import cuda_launcher
from runtime.kernels.job import CopyJob, Grid, batch_words, write_batch
from tests.support.kernels.buffers import Buffer, of_words, random_bytes

MIB = 1 << 20
CPU_BYTES = 16 * MIB
CPU_THREADS = 32
ROUNDS = 5
DEVICE_SIZES = tuple(4096 << (2 * power) for power in range(9))
GRIDS = tuple(
    Grid(blocks=blocks, threads=threads)
    for threads in (256, 1024)
    for blocks in (1, 2, 4, 8, 16, 32, 64)
)
BATCH_GRID = Grid(blocks=32, threads=1024)
CHUNK_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True)
class DeviceRate:
    """Measured rates of one kind of copy on a device, in GB/s of device bytes.

    Attributes:
        copy: What is copied.
        direction: D2H or H2D.
        size_bytes: Device bytes of one storage.
        storages: How many are copied.
        engine_gb_per_s: By the copy engine, one call for each.
        kernel_gb_per_s: By a kernel in one launch, by grid: blocks x threads.
    """

    copy: str
    direction: str
    size_bytes: int
    storages: int
    engine_gb_per_s: float
    kernel_gb_per_s: dict[str, float]

    def best(self) -> tuple[str, float]:
        """Returns the grid with the highest rate, and that rate."""
        return max(self.kernel_gb_per_s.items(), key=lambda entry: entry[1])


def cpu_gb_per_s(run: Callable[[], object], size_bytes: int) -> float:
    """Median rate of a call, after one that compiles."""
    run()
    times_ns = []
    for _ in range(ROUNDS):
        start_ns = time.perf_counter_ns()
        run()
        times_ns.append(time.perf_counter_ns() - start_ns)
    return size_bytes / median(times_ns)


def print_cpu() -> None:
    """Prints the rates of the CPU execution."""
    print(f"CPU, {CPU_BYTES // MIB} MiB, {CPU_THREADS} threads one after the other, GB/s measured")
    for name, offset in (("vectors", 0), ("4-byte words", 4), ("bytes", 1)):
        source, target = random_bytes(CPU_BYTES, offset), Buffer(CPU_BYTES)
        rate = cpu_gb_per_s(
            lambda s=source, t=target: kernel_cpu.copy(  # type: ignore[misc]
                CPU_THREADS, t.address, s.address, CPU_BYTES
            ),
            CPU_BYTES,
        )
        print(f"  copy by {name:13} {rate:8.2f}")
    mask, bits, back = random_bytes(CPU_BYTES, below=2), Buffer(CPU_BYTES // 8), Buffer(CPU_BYTES)
    flag = of_words((0,))
    for name, run in (
        (
            "pack bools",
            lambda: kernel_cpu.pack(
                CPU_THREADS, bits.address, mask.address, CPU_BYTES, flag.address
            ),
        ),
        (
            "unpack bools",
            lambda: kernel_cpu.unpack(CPU_THREADS, back.address, bits.address, CPU_BYTES),
        ),
    ):
        print(f"  {name:21} {cpu_gb_per_s(run, CPU_BYTES):8.2f}")


def device_gb_per_s(
    issue: Callable[[], object], size_bytes: int, stream: torch.cuda.Stream
) -> float:
    """Median rate on the device of copies issued one after the other, launches included."""
    repeats = max(1, min(50, 256 * MIB // size_bytes))
    rates = []
    for _ in range(ROUNDS + 1):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(stream)
        for _ in range(repeats):
            issue()
        end.record(stream)
        end.synchronize()
        rates.append(size_bytes * repeats / (start.elapsed_time(end) * 1e6))
    return median(rates[1:])


def job(target: torch.Tensor, source: torch.Tensor, size_bytes: int) -> CopyJob:
    return CopyJob(
        source_address=source.data_ptr(), target_address=target.data_ptr(), size_bytes=size_bytes
    )


def name_of(grid: Grid) -> str:
    return f"{grid.blocks}x{grid.threads}"


def size_rates(launcher: KernelLauncher, stream: torch.cuda.Stream) -> Iterator[DeviceRate]:
    """Rates of one stretch by size and grid, both ways."""
    device = torch.zeros(DEVICE_SIZES[-1], dtype=torch.uint8, device="cuda")
    host = torch.zeros(DEVICE_SIZES[-1], dtype=torch.uint8, pin_memory=True)
    for direction, target, source in (("D2H", host, device), ("H2D", device, host)):
        for size_bytes in DEVICE_SIZES:
            to, by = target[:size_bytes], source[:size_bytes]
            one = job(target, source, size_bytes)

            def by_engine(to: torch.Tensor = to, by: torch.Tensor = by) -> object:
                return to.copy_(by, non_blocking=True)

            by_kernel = {
                name_of(grid): partial(launcher.copy, one, grid, stream.cuda_stream)
                for grid in GRIDS
            }
            yield DeviceRate(
                copy="one stretch",
                direction=direction,
                size_bytes=size_bytes,
                storages=1,
                engine_gb_per_s=device_gb_per_s(by_engine, size_bytes, stream),
                kernel_gb_per_s={
                    grid: device_gb_per_s(issue, size_bytes, stream)
                    for grid, issue in by_kernel.items()
                },
            )


def batch_rates(launcher: KernelLauncher, stream: torch.cuda.Stream) -> Iterator[DeviceRate]:
    """Rates of many small storages: a call for each, or one launch for all."""
    for size_bytes, storages in ((1024, 256), (4096, 256), (16_384, 256), (65_536, 64)):
        device = torch.zeros(storages, size_bytes, dtype=torch.uint8, device="cuda")
        host = torch.zeros(storages, size_bytes, dtype=torch.uint8, pin_memory=True)
        rows = list(zip(host, device, strict=True))
        words = batch_words([job(to, by, size_bytes) for to, by in rows], CHUNK_BYTES)
        memory = torch.zeros(len(words), dtype=torch.int64, pin_memory=True)
        table = write_batch(words, memory.data_ptr(), memory.nbytes)

        def by_engine(rows: list[tuple[torch.Tensor, torch.Tensor]] = rows) -> object:
            return [to.copy_(by, non_blocking=True) for to, by in rows]

        by_kernel = partial(launcher.copy_batch, table, BATCH_GRID, stream.cuda_stream)
        yield DeviceRate(
            copy="batch",
            direction="D2H",
            size_bytes=size_bytes,
            storages=storages,
            engine_gb_per_s=device_gb_per_s(by_engine, device.nbytes, stream),
            kernel_gb_per_s={
                name_of(BATCH_GRID): device_gb_per_s(by_kernel, device.nbytes, stream)
            },
        )


def mask_rates(launcher: KernelLauncher, stream: torch.cuda.Stream) -> Iterator[DeviceRate]:
    """Rates of masks, counted in device bytes, plain and as bits."""
    bools = 64 * MIB
    device = torch.zeros(bools, dtype=torch.uint8, device="cuda")
    host = torch.zeros(bools, dtype=torch.uint8, pin_memory=True)
    flag = torch.zeros(1, dtype=torch.int64, pin_memory=True)
    handle = stream.cuda_stream
    out, back = job(host, device, bools), job(device, host, bools)
    for direction, engine, kernel in (
        (
            "D2H",
            partial(host.copy_, device, non_blocking=True),
            partial(launcher.pack, out, flag.data_ptr(), BATCH_GRID, handle),
        ),
        (
            "H2D",
            partial(device.copy_, host, non_blocking=True),
            partial(launcher.unpack, back, BATCH_GRID, handle),
        ),
    ):
        yield DeviceRate(
            copy="mask as bits",
            direction=direction,
            size_bytes=bools,
            storages=1,
            engine_gb_per_s=device_gb_per_s(engine, bools, stream),
            kernel_gb_per_s={name_of(BATCH_GRID): device_gb_per_s(kernel, bools, stream)},
        )


def device_rates() -> list[DeviceRate]:
    """Measures everything on the GPU at hand; a minute or two."""
    torch.cuda.init()
    launcher = cuda_launcher()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        return [
            *size_rates(launcher, stream),
            *batch_rates(launcher, stream),
            *mask_rates(launcher, stream),
        ]


def print_rates(rates: list[DeviceRate]) -> None:
    """Prints rates, a line each: the copy engine's, then the kernel's by grid."""
    for rate in rates:
        grids = "".join(f"  {grid} {gb:.2f}" for grid, gb in rate.kernel_gb_per_s.items())
        what = f"{rate.copy:12} {rate.direction} {rate.storages:4} x {rate.size_bytes:10} bytes"
        print(f"{what}: engine {rate.engine_gb_per_s:7.2f}, kernel{grids}  GB/s measured")


def main() -> None:
    """Prints all rates this machine can measure."""
    print_cpu()
    if not torch.cuda.is_available():
        print("No CUDA device here: no rates of a device.")
        return
    print(torch.cuda.get_device_name())
    print_rates(device_rates())


if __name__ == "__main__":
    main()
