"""What the workers of one machine share of the way to host memory. Needs no torch."""

from typing import Annotated

from pydantic import Field

from profiles.files import Rate, Record

Gpus = Annotated[int, Field(ge=1)]


class Figure(Record):
    """A rate that somebody published.

    Attributes:
        bytes_per_us: The rate; numerically equal to MB/s.
        source: Where it was read.
        verified: Whether that place shows the measurement, the data sheet or the sum behind the
            figure; else it repeats what somebody else said.
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
