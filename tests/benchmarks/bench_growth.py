"""How planning grows with the step: Llamas of the 7b's width with more and more layers.

    python -m tests.benchmarks.bench_growth --png growth.png --csv growth.csv

Steps are estimated for an H200 (AdamW, bf16, 5 samples of 4,096 tokens) and planned for half of
their peak over PCIe 5. Times and memory are measured; each is fitted by a power of the number of
ops. Planning ends near its time limit, so the solver's time for linear programs, which the bound
needs, is fitted beside it.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from profiles.accelerator_roofline import target_of
from profiles.accelerators import accelerator_named
from profiles.estimate import estimate
from profiles.hardware import link_named
from profiles.profile import Profile, WorkloadSource, write_profile
from profiles.workload import Workload
from tests.benchmarks.bench_solve import HEADINGS, cells, print_machine, print_rows, written
from tests.benchmarks.measured_solve import SolveCase, SolveFigures, measured_solves

LAYERS = (3, 6, 13, 26, 52, 98)
"""About 1,000 to 30,000 ops."""
SEQUENCE = 4096
BATCH = 5
LINK = "pcie5-x16"
BUDGET_SHARE = 0.5
MIB = 1 << 20
MIN_SIZE_BYTES = MIB
"""The same for all: the default grows with the peak, and leaves long steps few storages to move."""


class Power(NamedTuple):
    """A fit by `factor * ops ** exponent`, least squares of the logarithms."""

    factor: float
    exponent: float

    def at(self, ops: float) -> float:
        """The value of the fit."""
        return float(self.factor * ops**self.exponent)


def layered_llama(layers: int) -> Profile:
    """Estimates a step of a Llama as wide as the 7b."""
    # What loads transformers, loaded only where steps are estimated.
    from transformers import LlamaConfig, LlamaForCausalLM

    from profiles.workloads.llama import SHAPES
    from profiles.workloads.next_token import next_token_training

    shape = SHAPES["7b"]
    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=SEQUENCE,
    )

    def build() -> Workload:
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(torch.float32)
        return next_token_training(
            model, sequence=SEQUENCE, batch=BATCH, optimizer="adamw", learning_rate=1e-4
        )

    return estimate(
        build,
        target=target_of(accelerator_named("h200")),
        source=WorkloadSource(reference="llama", settings=(("layers", str(layers)),), seed=0),
        link=link_named(LINK),
    )


def cases(folder: Path, layers: Sequence[int], time_limit_s: float) -> Iterator[SolveCase]:
    """Writes the profiles that are not there yet."""
    for count in layers:
        path = folder / f"llama-{count}-layers.profile.json.gz"
        if not path.exists():
            write_profile(layered_llama(count), path)
        yield SolveCase(
            profile=str(path),
            budget_share=BUDGET_SHARE,
            link=LINK,
            time_limit_s=time_limit_s,
            min_size_bytes=MIN_SIZE_BYTES,
        )


def fitted(ops: Sequence[int], values: Sequence[float]) -> Power:
    """Fits values by a power of ops."""
    exponent, offset = np.polyfit(np.log(ops), np.log(values), 1)
    return Power(float(np.exp(offset)), float(exponent))


def draw(found: Sequence[SolveFigures]) -> Figure:
    """Draws solve time and memory over ops, with their fits."""
    ops = [figures.ops for figures in found]
    figure = Figure(figsize=(13, 4), layout="constrained")
    panels = figure.subplots(1, 3)
    measured = {
        "planning, processor seconds": [figures.cpu_seconds for figures in found],
        "solving the linear program, seconds": [figures.lp_seconds for figures in found],
        "peak memory of the process, MiB": [f.peak_memory_bytes / MIB for f in found],
    }
    for panel, (name, values) in zip(panels, measured.items(), strict=True):
        power = fitted(ops, values)
        panel.loglog(ops, values, "o", label="measured")
        panel.loglog(ops, [power.at(n) for n in ops], "-", label=f"ops ^ {power.exponent:.2f}")
        panel.set_xlabel("ops of the step")
        panel.set_title(name)
        panel.grid(visible=True, which="both", alpha=0.3)
        panel.legend()
    return figure


def main(words: Sequence[str]) -> None:
    """Prints a row per step, then the fits."""
    parser = argparse.ArgumentParser(description="How planning grows with the step.")
    parser.add_argument("--layers", nargs="+", type=int, default=LAYERS)
    parser.add_argument("--time-limit", type=float, default=55.0, metavar="SECONDS")
    parser.add_argument("--profiles", type=Path, metavar="FOLDER", help="keep the profiles here")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--png", type=Path, metavar="FILE")
    options = parser.parse_args(words)
    print_machine()
    print_rows([HEADINGS, ["---"] * len(HEADINGS)])
    found = []
    with tempfile.TemporaryDirectory() as folder:
        made = cases(options.profiles or Path(folder), options.layers, options.time_limit)
        for figures in written(measured_solves(made), options.csv):
            print_rows([cells(figures)])
            found.append(figures)
    found = [figures for figures in found if figures.lp_seconds]
    ops = [figures.ops for figures in found]
    fits = {
        "planning, processor s": fitted(ops, [figures.cpu_seconds for figures in found]),
        "linear program, s": fitted(ops, [figures.lp_seconds for figures in found]),
        "rows": fitted(ops, [figures.rows for figures in found]),
        "memory, bytes": fitted(ops, [figures.peak_memory_bytes for figures in found]),
    }
    print()
    for name, power in fits.items():
        print(f"{name}: {power.factor:.3g} * ops ^ {power.exponent:.2f}")
    if options.png:
        draw(found).savefig(options.png, dpi=150)


if __name__ == "__main__":
    main(sys.argv[1:])
