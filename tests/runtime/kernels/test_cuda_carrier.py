"""The kernels on a device, where there is one: exact between device and pinned host memory."""

from collections.abc import Iterator

import pytest
import torch

from runtime.kernels.carrier import KernelLauncher
from runtime.kernels.cuda_carrier import cuda_launcher
from runtime.kernels.job import CopyJob, Grid, batch_words, write_batch

pytestmark = pytest.mark.gpu

GRIDS = [Grid(blocks=1, threads=32), Grid(blocks=16, threads=1024), Grid(blocks=132, threads=256)]
SIZES = (1, 15, 4097, (1 << 20) + 3, 64 << 20)
HOST_GUARD = 0x5A
DEVICE_GUARD = 0xA5


@pytest.fixture(scope="module")
def launcher() -> KernelLauncher:
    torch.cuda.init()
    torch.cuda.synchronize()
    return cuda_launcher()


@pytest.fixture
def stream() -> Iterator[torch.cuda.Stream]:
    """A stream of its own, behind all that was issued before, and waited for at the end."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    yield stream
    stream.synchronize()


class Ends:
    """A stretch on the device and one on the host, each between guards.

    `device` and `host` are views; whoever uses them keeps this object until the stream is done.
    """

    def __init__(self, size_bytes: int, offset: int = 0, host_bytes: int | None = None) -> None:
        host_bytes = size_bytes if host_bytes is None else host_bytes
        # The guards differ, so that a copy of too many bytes shows.
        self.all_device = torch.full(
            (size_bytes + 512,), DEVICE_GUARD, dtype=torch.uint8, device="cuda"
        )
        self.all_host = torch.full(
            (host_bytes + 512,), HOST_GUARD, dtype=torch.uint8, pin_memory=True
        )
        start = 256 + offset
        self.device = self.all_device[start : start + size_bytes]
        self.host = self.all_host[start : start + host_bytes]
        torch.cuda.synchronize()

    def d2h(self) -> CopyJob:
        return CopyJob(
            source_address=self.device.data_ptr(),
            target_address=self.host.data_ptr(),
            size_bytes=self.device.nbytes,
        )

    def h2d(self) -> CopyJob:
        return CopyJob(
            source_address=self.host.data_ptr(),
            target_address=self.device.data_ptr(),
            size_bytes=self.device.nbytes,
        )

    def fill_device(self, below: int = 256) -> torch.Tensor:
        """Puts random bytes on the device, and returns them."""
        generator = torch.Generator().manual_seed(self.device.nbytes)
        values = torch.randint(below, self.device.shape, generator=generator, dtype=torch.uint8)
        self.device.copy_(values)
        torch.cuda.synchronize()
        return values

    def guards_hold(self) -> bool:
        """Whether nothing beside the stretches was written."""
        for whole, part, guard in (
            (self.all_device.cpu(), self.device, DEVICE_GUARD),
            (self.all_host, self.host, HOST_GUARD),
        ):
            start = part.storage_offset()
            around = torch.cat((whole[:start], whole[start + part.nbytes :]))
            if not bool((around == guard).all()):
                return False
        return True


@pytest.mark.parametrize("offset", [0, 7])
@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_stretch_goes_out_and_comes_back(
    launcher: KernelLauncher, stream: torch.cuda.Stream, grid: Grid, size_bytes: int, offset: int
) -> None:
    ends = Ends(size_bytes, offset)
    values = ends.fill_device()
    launcher.copy(ends.d2h(), grid, stream.cuda_stream)
    stream.synchronize()
    assert torch.equal(ends.host, values)
    ends.device.zero_()
    torch.cuda.synchronize()
    launcher.copy(ends.h2d(), grid, stream.cuda_stream)
    stream.synchronize()
    assert torch.equal(ends.device.cpu(), values)
    assert ends.guards_hold()


def test_ends_that_do_not_agree_in_alignment(
    launcher: KernelLauncher, stream: torch.cuda.Stream
) -> None:
    for shift in (1, 2, 4, 8, 13):
        ends = Ends(100_003)
        values = ends.fill_device()
        ends.host = ends.all_host[256 + shift : 256 + shift + 100_003]
        launcher.copy(ends.d2h(), GRIDS[1], stream.cuda_stream)
        stream.synchronize()
        assert torch.equal(ends.host, values)
        assert ends.guards_hold()


@pytest.mark.parametrize("grid", GRIDS)
def test_many_storages_go_out_in_one_launch(
    launcher: KernelLauncher, stream: torch.cuda.Stream, grid: Grid
) -> None:
    several = [Ends(size, number % 16) for number, size in enumerate([1, 100, 4096, 70_001] * 20)]
    values = [ends.fill_device() for ends in several]
    words = batch_words([ends.d2h() for ends in several], chunk_bytes=16_384)
    memory = torch.zeros(len(words), dtype=torch.int64, pin_memory=True)
    table = write_batch(words, memory.data_ptr(), memory.nbytes)
    launcher.copy_batch(table, grid, stream.cuda_stream)
    stream.synchronize()
    assert all(
        torch.equal(e.host, v) and e.guards_hold() for e, v in zip(several, values, strict=True)
    )


@pytest.mark.parametrize("bools", [1, 31, 1001, (8 << 20) + 5])
@pytest.mark.parametrize("grid", GRIDS)
def test_masks_are_packed_and_unpacked(
    launcher: KernelLauncher, stream: torch.cuda.Stream, grid: Grid, bools: int
) -> None:
    ends = Ends(bools, host_bytes=-(-bools // 8))
    values = ends.fill_device(below=2)
    flag = torch.zeros(1, dtype=torch.int64, pin_memory=True)
    launcher.pack(ends.d2h(), flag.data_ptr(), grid, stream.cuda_stream)
    stream.synchronize()
    bits = torch.arange(8, dtype=torch.uint8)
    unpacked = (ends.host[:, None] >> bits & 1).flatten()[:bools]
    assert torch.equal(unpacked, values)
    assert flag.item() == 0
    ends.device.fill_(7)
    torch.cuda.synchronize()
    launcher.unpack(ends.h2d(), grid, stream.cuda_stream)
    stream.synchronize()
    assert torch.equal(ends.device.cpu(), values)
    assert ends.guards_hold()


def test_a_launch_can_be_captured_and_replayed(launcher: KernelLauncher) -> None:
    ends = Ends(1 << 20)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        handle = torch.cuda.current_stream().cuda_stream
        launcher.copy(ends.d2h(), GRIDS[1], handle)
    values = ends.fill_device()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(ends.host, values)
