"""What is known of a link, figure by figure, each with the place it was read. Needs no torch."""

from dataclasses import dataclass

from profiles.profile import Link


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A rate that somebody published.

    Attributes:
        bytes_per_us: The rate; numerically equal to MB/s.
        source: Where it was read.
        verified: Whether that place shows the measurement, the data sheet or the sum behind the
            figure; else it repeats what somebody else said.
    """

    bytes_per_us: float
    source: str
    verified: bool = True


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """What the workers of one machine share when all of them swap.

    Attributes:
        gpus_per_uplink: GPUs behind one connection to the host, such as a PCIe switch; 1 if each
            GPU has its own.
        gpus_per_memory: GPUs whose copies end in the memory of one socket.
        memory: Rate of that memory, reads and writes together; None if no source was read.
        source: Where the counts were read.
    """

    gpus_per_uplink: int
    gpus_per_memory: int
    memory: Figure | None
    source: str


@dataclass(frozen=True, kw_only=True)
class LinkFacts:
    """A link of the table: what a plan is made with, and what that rests on.

    Attributes:
        link: The record that goes into profiles and plans; its rates are those below.
        theory: Rate of one direction by the standard or the data sheet.
        d2h: Rate from device to host that somebody measured.
        h2d: Rate from host to device that somebody measured.
        both: Rate of both directions together while both run; None if no source was read.
        sharing: What workers share on the machine that the figures come from; None if unknown.
    """

    link: Link
    theory: Figure
    d2h: Figure
    h2d: Figure
    both: Figure | None
    sharing: Sharing | None

    @property
    def figures(self) -> tuple[tuple[str, Figure], ...]:
        """Every rate that is known, with its name."""
        memory = self.sharing.memory if self.sharing else None
        named = (
            ("in theory, each way", self.theory),
            ("to the host", self.d2h),
            ("from the host", self.h2d),
            ("both ways together", self.both),
            ("memory of a socket", memory),
        )
        return tuple((name, figure) for name, figure in named if figure is not None)
