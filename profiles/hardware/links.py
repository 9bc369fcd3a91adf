"""The links between device and host memory that a plan can be made for.

Rates are for large pinned copies by the copy engine, to the memory next to the device, as the
places named beside each figure report them. None was measured on the machine at hand, so all are
nominal; a rate of your own goes in by `--d2h-bandwidth` and `--h2d-bandwidth`. Machines with the
same link differ, by a factor of two at times:

- PCIe 3 hosts of the time of V100 reach 12 to 13 GB/s one way; GitHub thread FreeToken#436 has 14.2
  to 14.3.
- An A100's PCIe 4 host may or may not slow a direction while the other one runs.
- GH200 boards with other memory copy to the host at 170 GB/s (GitHub NVIDIA/Megatron-LM#6491) where
  the one in the table does 297.
- Of GB200, GitHub pytorch/torchtitan#3489 and #3519 say 330 to 350 GB/s from memory to the GPU next
  to it, and 115 to 120 across sockets. The table has what nvbandwidth printed, as the mean of the
  four GPUs of a machine. A GB300 that has a socket to itself does 359 from the host, 377 to it and
  347 both ways (GitHub stas00/ml-engineering, network).

[Note: Lutz et al.] C. Lutz et al., Pump Up the Volume: Processing Large Data on GPUs with Fast
Interconnects, SIGMOD 2020, doi:10.1145/3318464.3389705. Its text was not read. The figures are
those that its author draws in GitHub LutzCle/web, 20200507_fast_interconnects: as printed there,
but for NVLink 2 one way (63.3 GiB/s), which is measured on the drawing.

[Note: assumed figures] Figures that were not found published are assumed: the source says so, and
they count as not verified.

- AC922 to the host: as from the host, since both ways together reach nearly twice that.
- AC922 with six GPUs, both ways: two thirds of what four GPUs' three bricks reach, as one way does.
- GB200 in theory: half of a Grace's 450 GB/s (GitHub stas00/ml-engineering, network), which has two
  GPUs, since each of them reaches nearly that.
- PCIe 5, memory of a socket: half of the 456 GB/s that eight H800 reach while all copy both ways,
  as machines of eight have two sockets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from profiles.schema.errors import QuantityError, did_you_mean
from profiles.schema.link import NOTHING_SHARED, Figure, Sharing
from profiles.schema.profile import Link, Provenance


@dataclass(frozen=True, kw_only=True)
class LinkFacts:
    """A link of the table: what a plan is made with, and what that rests on.

    Attributes:
        link: The record that goes into profiles and plans; its rates are those below.
        theory: Rate of one direction by the standard or the data sheet.
        d2h: Rate from device to host, measured by others.
        h2d: Rate from host to device, measured by others.
        both: Rate of both directions together while both run.
        sharing: What workers share on the machine that the figures come from.
    """

    link: Link
    theory: Figure
    d2h: Figure
    h2d: Figure
    both: Figure
    sharing: Sharing

    @property
    def figures(self) -> tuple[tuple[str, Figure], ...]:
        """Every rate that is known, with its name."""
        named = (
            ("in theory, each way", self.theory),
            ("to the host", self.d2h),
            ("from the host", self.h2d),
            ("both ways together", self.both),
            ("memory of a socket", self.sharing.memory),
        )
        return tuple((name, figure) for name, figure in named if figure is not None)


CUSTOM = "custom"
"""The name of a link whose rates the user gave."""
MEASURED = "measured"
"""The name of a link whose rates were measured on the machine at hand."""

COPY_LATENCY_US = 10.0
"""Issuing one asynchronous copy and its two events: a few microseconds each on the host."""


def nominal_link(
    name: str,
    d2h_bytes_per_us: float,
    h2d_bytes_per_us: float,
    both_bytes_per_us: float | None = None,
    *,
    latency_us: float,
) -> Link:
    """Returns a link whose rates were not measured on the machine at hand."""
    return Link(
        name=name,
        d2h_bytes_per_us=d2h_bytes_per_us,
        h2d_bytes_per_us=h2d_bytes_per_us,
        both_bytes_per_us=both_bytes_per_us,
        latency_us=latency_us,
        engines=(),
        provenance=Provenance.NOMINAL,
    )


# The emulated accelerator computes about as slowly as one CPU core. Its link is slow in the same
# proportion, so that compute and copies compete as they do on a real device. The latency is that
# of waking a thread.
EMULATED = nominal_link("cpu-emulated", 1_000.0, 1_000.0, latency_us=50.0)

ASSUMED = "not published; assumed"
QUOTED = "a reader's quote of nextplatform.com, 2017-12-15; the article was not read"
PCIE = "PCI-SIG: 8, 16 and 32 GT/s for PCIe 3, 4 and 5, 128b/130b code, 16 lanes"
S9426 = "IBM at GTC 2019, S9426"
LUTZ = "Lutz et al., SIGMOD 2020"
GB200_TRAY = "GitHub oracle-quickstart/oci-gpu-quickstarts, README-GB200.md"
H800_BOX = "GitHub liguodongiot/llm-action, nvbandwidth.md: eight H800"
NVLINK_BRICK = "25 GB/s each way per NVLink 2 brick (GitHub open-mpi/hwloc#574)"
GH200_BOX = "GitHub dnhkng/GH200_benchmarking, RESULTS.md of 2026-04-25"
POWER9_MEMORY = f"{S9426}: in theory; its CPU reads at 126 ({LUTZ})"
OPENPOWER = "reddit.com/r/OpenPOWER, 2018-01-03"


def _rate(gb_per_s: float, source: str) -> Figure:
    verified = not source.startswith((ASSUMED, QUOTED))
    return Figure(bytes_per_us=gb_per_s * 1000, source=source, verified=verified)


def _link(
    name: str,
    *,
    theory: Figure,
    d2h: Figure,
    h2d: Figure,
    both: Figure,
    gpus: tuple[int, int],
    counted: str,
    memory: Figure | None = None,
) -> LinkFacts:
    """A row: so many `gpus` share a connection to the host, and so many the memory of a socket."""
    rates = d2h.bytes_per_us, h2d.bytes_per_us, both.bytes_per_us
    link = nominal_link(name, *rates, latency_us=COPY_LATENCY_US)
    uplink, socket = gpus
    sharing = Sharing(gpus_per_uplink=uplink, gpus_per_memory=socket, memory=memory, source=counted)
    return LinkFacts(link=link, theory=theory, d2h=d2h, h2d=h2d, both=both, sharing=sharing)


_TABLE = (
    _link(
        "pcie3-x16",
        theory=_rate(15.75, PCIE),
        d2h=_rate(12.9, "GitHub mpicbg-scicomp/gearshifft#82: P100"),
        h2d=_rate(12.35, f"{LUTZ}: 11.5 GiB/s; gearshifft#82 has 12.15"),
        both=_rate(22.0, f"{LUTZ}: 20.5 GiB/s"),
        gpus=(2, 4),
        counted="GitHub NVIDIA/nccl#671: a DGX-1 with V100",
        memory=_rate(76.8, f"{S9426}: an x86 host, in theory"),
    ),
    _link(
        "pcie4-x16",
        theory=_rate(31.5, PCIE),
        d2h=_rate(25.0, "GitHub NVIDIA/nvbandwidth#11, #53, A100"),
        h2d=_rate(26.0, "GitHub NVIDIA/nvbandwidth, README, eight GPUs"),
        both=_rate(36.0, "GitHub NVIDIA/nvbandwidth#53, A100: 25 to the host, 11 from it"),
        gpus=(2, 4),
        counted="GitHub NVIDIA/nvbandwidth#53: eight A100, two sockets",
    ),
    _link(
        "pcie5-x16",
        theory=_rate(63.0, PCIE),
        d2h=_rate(53.0, "GitHub flashinfer-ai/flashinfer#4870; NVIDIA/nvbandwidth#24 has 52.8"),
        h2d=_rate(53.0, "GitHub flashinfer-ai/flashinfer#4870"),
        both=_rate(83.4, "blog.vllm.ai, 2026-01-08, H100, copy engine; H800 have 87 (llm-action)"),
        gpus=(1, 4),
        counted=f"{H800_BOX}; two sockets are assumed",
        memory=_rate(228.0, f"{ASSUMED} half of 456 ({H800_BOX})"),
    ),
    _link(
        "nvlink2-ac922-4gpu",
        theory=_rate(75.0, f"{NVLINK_BRICK}, three of them"),
        d2h=_rate(68.0, f"{ASSUMED} as from the host"),
        h2d=_rate(68.0, f"{LUTZ}: 63.3 GiB/s"),
        both=_rate(129.6, f"{LUTZ}: 120.7 GiB/s"),
        gpus=(1, 2),
        counted=f"{OPENPOWER}: two V100 a socket, three bricks each",
        memory=_rate(170.0, POWER9_MEMORY),
    ),
    _link(
        "nvlink2-ac922-6gpu",
        theory=_rate(50.0, f"{NVLINK_BRICK}, two of them"),
        d2h=_rate(45.9, QUOTED),
        h2d=_rate(45.9, QUOTED),
        both=_rate(86.4, f"{ASSUMED} 2/3 of that with four GPUs"),
        gpus=(1, 3),
        counted=f"{OPENPOWER}: three V100 a socket, two bricks each",
        memory=_rate(170.0, POWER9_MEMORY),
    ),
    _link(
        "nvlink-c2c-gh200",
        theory=_rate(450.0, "datacrunch.io, Data movement in the GH200: 900 both ways"),
        d2h=_rate(297.0, f"{GH200_BOX}; 480 GB of host memory"),
        h2d=_rate(370.0, f"{GH200_BOX}: 370 to 381"),
        both=_rate(358.0, f"{GH200_BOX}: 179 to 190 each way"),
        gpus=(1, 1),
        counted=GH200_BOX,
        memory=_rate(348.0, f"{GH200_BOX}: STREAM triad"),
    ),
    _link(
        "nvlink-c2c-gb200",
        theory=_rate(225.0, f"{ASSUMED} half of a Grace's 450"),
        d2h=_rate(193.5, f"{GB200_TRAY}: 774, four GPUs"),
        h2d=_rate(200.7, f"{GB200_TRAY}: 803, four GPUs"),
        both=_rate(327.4, f"{GB200_TRAY}: 659 + 650, four GPUs"),
        gpus=(1, 2),
        counted="GitHub ishandhanani/srt-slurm#164: four GPUs, two sockets",
        memory=_rate(328.0, f"{GB200_TRAY}: 330 + 326, two sockets"),
    ),
)

LINK_FACTS: Mapping[str, LinkFacts] = MappingProxyType({facts.link.name: facts for facts in _TABLE})
"""What is known of every real link, by name."""

LINKS: Mapping[str, Link] = MappingProxyType(
    {link.name: link for link in (EMULATED, *(facts.link for facts in LINK_FACTS.values()))}
)


def link_named(name: str) -> Link:
    """Returns a link of the table.

    Raises:
        QuantityError: There is none of that name; the message names the nearest, or all.
    """
    if name in LINKS:
        return LINKS[name]
    hint = did_you_mean(name, LINKS, f"Links: {', '.join(LINKS)}.")
    raise QuantityError(f"there is no link {name!r}. {hint}")


def known_sharing(link: Link) -> Sharing | None:
    """Returns what workers share on a link of the table; None if that is unknown."""
    if link.name == EMULATED.name:
        # Each emulated accelerator has lanes of its own, which keep to their rate.
        return NOTHING_SHARED
    facts = LINK_FACTS.get(link.name)
    return facts.sharing if facts else None
