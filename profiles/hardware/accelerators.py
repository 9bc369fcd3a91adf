"""The accelerators that a step can be estimated for. Needs no torch.

`theory` figures are those of the maker's data sheet, dense (sheets of Ampere and later also print
twice as much, for sparse matrices). `measured` figures were measured by others, at the places
named beside them, and none by this project.

[Note: checked figures] No data sheet was at hand. The `theory` figures were quoted from memory and
then compared, on 2026-11-24, with what others say of them; none differed. Arithmetic of A100 and
later: the table of GitHub stas00/ml-engineering, compute/accelerator. V100: Cornell's GPU
architecture course (cvw.cac.cornell.edu) works out 7.8 and 15.7 from cores and clock,
developer.nvidia.com/programming-tensor-cores-cuda-9-0 has 125, io-tech.fi 900 GB/s (of the PCIe
board, whose memory is the same). RTX 4090, all of it: waredb.com/processor/nvidia-geforce-rtx-4090.
Memory of A100 40 GB: GitHub PTsolvers/gpu-workshop-JuliaCon23#7; of A100 80 GB:
glennklockwood.com/garden/processors/A100, which cites the data sheet; of H100 and H200:
acecloud.ai/blog/hbm3e-nvidia-h200-ai-training-inference, likewise; of GH200: datacrunch.io, Data
movement in the GH200.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from profiles.hardware.op_class import Precision
from profiles.schema.errors import QuantityError, did_you_mean

GIB = 1 << 30
BEST_MATMUL_SHARE = 0.80
"""Of the data sheet; ASSUMED where not measured. Elsewhere: 0.87 (A100), 0.80 (H100)."""
BEST_COPY_SHARE = 0.87
"""Likewise. Measured elsewhere: 0.88 (V100), 0.87 (A100 of 40 GB)."""


@dataclass(frozen=True)
class Cited:
    """A figure and where it stands.

    Attributes:
        value: The figure, in the unit of the attribute that holds it.
        source: Where it stands.
    """

    value: float
    source: str


@dataclass(frozen=True)
class Accelerator:
    """What is known of one accelerator.

    Attributes:
        name: What the user types.
        product: The maker's name for it, as torch reports it.
        link: The usual link to the host: a name of `profiles.hardware.links.LINKS`.
        memory_bytes: Its memory, as sold.
        theory_tflops: Arithmetic by precision, tensor cores where they have it.
        theory_gb_per_s: Rate of its memory.
        theory_source: Where both stand; see [Note: checked figures].
        measured_tflops: The best bf16 matrix product; None where no measurement was found.
        measured_gb_per_s: The best copy within its memory, bytes read plus written; None likewise.
    """

    name: str
    product: str
    link: str
    memory_bytes: int
    theory_tflops: Mapping[Precision, float]
    theory_gb_per_s: float
    theory_source: str
    measured_tflops: Cited | None = None
    measured_gb_per_s: Cited | None = None


def _tflops(
    fp64: float, fp32: float, half: float, *, tf32: float | None = None, bf16: bool = True
) -> Mapping[Precision, float]:
    rates = {Precision.FP64: fp64, Precision.FP32: fp32, Precision.FP16: half}
    if tf32 is not None:
        rates[Precision.TF32] = tf32
    if bf16:
        rates[Precision.BF16] = half
    return MappingProxyType(rates)


_HOPPER = _tflops(34.0, 67.0, 989.0, tf32=494.5)
_AMPERE = _tflops(9.7, 19.5, 312.0, tf32=156.0)
_VOLTA = _tflops(7.8, 15.7, 125.0, bf16=False)
_ADA = _tflops(1.3, 82.6, 165.2, tf32=82.6)
_H200 = "NVIDIA H200 Tensor Core GPU data sheet, SXM"
_H100 = "NVIDIA H100 Tensor Core GPU data sheet, SXM"
_GH200 = "NVIDIA GH200 Grace Hopper Superchip data sheet, 96 GB HBM3"
_A100 = "NVIDIA A100 Tensor Core GPU data sheet, SXM"
_V100 = "NVIDIA V100 Tensor Core GPU data sheet, SXM2"
_RTX4090 = "NVIDIA Ada GPU architecture white paper, fp32 accumulate"
_MAMF = "GitHub stas00/ml-engineering, compute/accelerator, table of achievable matmuls"
_H200_MATMUL = Cited(794.5, f"{_MAMF}: H100 SXM, 'H200 is the same'")
_H100_MATMUL = Cited(794.5, f"{_MAMF}: H100 SXM")
_GH200_MATMUL = Cited(828.6, f"{_MAMF}: GH200 SXM of 141 GiB, 900 W")
_A100_MATMUL = Cited(271.2, f"{_MAMF}: A100 SXM")
_A100_COPY = Cited(1355.0, "GitHub PTsolvers/gpu-workshop-JuliaCon23#7: memory copy")
_V100_COPY = Cited(790.0, "paranumal.com, 2018-02-08: cudaMemcpy on the 16 GB PCIe board")
PCIE3, PCIE4, PCIE5, C2C = "pcie3-x16", "pcie4-x16", "pcie5-x16", "nvlink-c2c-gh200"

_TABLE = (
    Accelerator("h200", "NVIDIA H200", PCIE5, 141 * 10**9, _HOPPER, 4800.0, _H200, _H200_MATMUL),
    Accelerator(
        "h100-80gb", "NVIDIA H100 80GB HBM3", PCIE5, 80 * GIB, _HOPPER, 3350.0, _H100, _H100_MATMUL
    ),
    Accelerator(
        "gh200-96gb", "NVIDIA GH200 480GB", C2C, 96 * 10**9, _HOPPER, 4000.0, _GH200, _GH200_MATMUL
    ),
    Accelerator(
        "a100-80gb", "NVIDIA A100-SXM4-80GB", PCIE4, 80 * GIB, _AMPERE, 2039.0, _A100, _A100_MATMUL
    ),
    Accelerator(
        "a100-40gb",
        "NVIDIA A100-SXM4-40GB",
        PCIE4,
        40 * GIB,
        _AMPERE,
        1555.0,
        _A100,
        _A100_MATMUL,
        _A100_COPY,
    ),
    Accelerator(
        "v100-32gb", "Tesla V100-SXM2-32GB", PCIE3, 32 * GIB, _VOLTA, 900.0, _V100, None, _V100_COPY
    ),
    Accelerator(
        "v100-16gb", "Tesla V100-SXM2-16GB", PCIE3, 16 * GIB, _VOLTA, 900.0, _V100, None, _V100_COPY
    ),
    Accelerator("rtx4090", "NVIDIA GeForce RTX 4090", PCIE4, 24 * GIB, _ADA, 1008.0, _RTX4090),
)

ACCELERATORS: Mapping[str, Accelerator] = MappingProxyType({entry.name: entry for entry in _TABLE})
"""Every accelerator, by name."""


def accelerator_named(name: str) -> Accelerator:
    """Returns an accelerator of the table.

    Raises:
        QuantityError: There is none of that name; the message names the nearest, or all.
    """
    if name in ACCELERATORS:
        return ACCELERATORS[name]
    hint = did_you_mean(name, ACCELERATORS, f"There are {', '.join(ACCELERATORS)}.")
    raise QuantityError(
        f"there is no device {name!r} to estimate for. {hint} On 'cpu' and 'cuda' steps are run."
    )
