"""The accelerators that a step can be estimated for. Needs no torch.

`accelerators.toml` has what is known of each, and where that was read.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from profiles.hardware.op_class import Precision
from profiles.schema.errors import QuantityError, did_you_mean

BEST_MATMUL_SHARE = 0.80
"""Of the data sheet; ASSUMED where not measured. Elsewhere: 0.87 (A100), 0.80 (H100)."""
BEST_COPY_SHARE = 0.87
"""Likewise. Measured elsewhere: 0.88 (V100), 0.87 (A100 of 40 GB)."""


@dataclass(frozen=True)
class Cited:
    """A figure, in the unit of the attribute that holds it, and where it stands."""

    value: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """What is known of one accelerator.

    Attributes:
        name: What the user types.
        product: The maker's name for it, as torch reports it.
        link: The usual link to the host: a name of `profiles.hardware.links.LINKS`.
        memory_bytes: Its memory, as sold.
        theory_tflops: Arithmetic by precision, tensor cores where they have it.
        theory_gb_per_s: Rate of its memory.
        theory_source: Where both stand; see [Note: checked figures] there.
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


def _accelerator(name: str, row: dict[str, Any]) -> Accelerator:
    tflops = {Precision(precision): rate for precision, rate in row.pop("theory_tflops").items()}
    cited = {key: Cited(*value) for key, value in row.items() if isinstance(value, list)}
    return Accelerator(name=name, theory_tflops=MappingProxyType(tflops), **(row | cited))


_TABLE = tomllib.loads(Path(__file__).with_name("accelerators.toml").read_text())

ACCELERATORS: Mapping[str, Accelerator] = MappingProxyType(
    {name: _accelerator(name, row) for name, row in _TABLE.items()}
)
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
