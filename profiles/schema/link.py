"""What can carry a copy between device and host, and how fast each was measured. Needs no torch."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from profiles.schema.files import Count, Rate, Record

BOOLS_PER_BYTE = 8


class CopyMethod(StrEnum):
    """What carries a copy.

    DMA: The device's own copy engine, through the driver: best for large stretches.
    VECTOR_KERNEL: A kernel of few blocks, 16 bytes a thread and access.
    BATCH_KERNEL: The same for many stretches in one launch, from a table of addresses.
    BITPACK_KERNEL: A kernel that keeps one bit of each bool: eight times fewer host bytes.
    """

    DMA = "copy_engine"
    VECTOR_KERNEL = "vector_kernel"
    BATCH_KERNEL = "batch_kernel"
    BITPACK_KERNEL = "bitpack_kernel"


class MethodRate(Record):
    """How fast an engine carries copies of one size, issued one right after the other.

    Attributes:
        engine: What carries them. Of the copy engine, whose rates are the link's own, this is what
            kernels are compared with: measured like them, beside them.
        size_bytes: Device bytes of each copy.
        together: How many copies one launch carries.
        d2h_bytes_per_us: Device bytes to the host.
        h2d_bytes_per_us: Device bytes from the host.
    """

    engine: CopyMethod
    size_bytes: Count = Field(gt=0)
    together: Count = Field(gt=0)
    d2h_bytes_per_us: Rate
    h2d_bytes_per_us: Rate


def host_size_bytes(engine: CopyMethod, size_bytes: int) -> int:
    """Returns the host bytes that `size_bytes` of device bytes take when an engine carries them."""
    if engine is CopyMethod.BITPACK_KERNEL:
        return -(-size_bytes // BOOLS_PER_BYTE)
    return size_bytes


Gpus = Annotated[int, Field(ge=1)]


class Figure(Record):
    """A rate that was published, and where it was read.

    Attributes:
        verified: Whether that place shows the measurement, the data sheet or the sum behind the
            figure; else it repeats another place.
    """

    bytes_per_us: Rate
    source: str
    verified: bool


class Sharing(Record):
    """What the workers of one machine share when all of them swap.

    Attributes:
        gpus_per_uplink: GPUs behind one connection to the host, such as a PCIe switch; 1 if each
            GPU has its own.
        gpus_per_memory: GPUs whose copies end in the memory of one socket.
        memory: Rate of that memory, reads and writes together; None if no source was read.
        source: Where the counts were read.
    """

    gpus_per_uplink: Gpus
    gpus_per_memory: Gpus
    memory: Figure | None
    source: str


NOTHING_SHARED = Sharing(
    gpus_per_uplink=1, gpus_per_memory=1, memory=None, source="workers on machines of their own"
)
