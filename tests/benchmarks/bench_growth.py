"""How planning grows with the step: Llamas of the 7b's width with more and more layers.

    python -m tests.benchmarks.bench_growth --png growth.png --csv growth.csv

Steps are estimated for an H200 (AdamW, bf16, 5 samples of 4,096 tokens) and planned for half of
their peak over PCIe 5. Times and memory are measured; each is fitted by a power of the number of
ops. Planning goes on until its time limit, so what is fitted is the time after which a plan and a
bound were known that are within 1% of the step of each other, and the solver's time for linear
programs.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from planner.plan.plan import BoundSource
from profiles.estimating.estimate import estimate
from profiles.estimating.roofline import target_of
from profiles.hardware.accelerators import accelerator_named
from profiles.hardware.links import link_named
from profiles.hooks.workload import Workload
from profiles.schema.profile import Profile, WorkloadSource
from profiles.schema.profile_file import write_profile
from tests.benchmarks.bench_solve import HEADINGS, cells
from tests.benchmarks.measured_solve import SolveCase, SolveFigures, measured_solves
from tests.benchmarks.tables import print_headings, print_machine, print_row, written

LAYERS = (3, 6, 13, 26, 52, 98)
"""About 1,000 to 30,000 ops."""
SEQUENCE = 4096
BATCH = 5
LINK = "pcie5-x16"
BUDGET_SHARE = 0.5
MIB = 1 << 20
MIN_SIZE_BYTES = MIB
"""The same for all: the default depends on the peak and on how many small storages a step has."""


class Power(NamedTuple):
    """A fit by `factor * ops ** exponent`, least squares of the logarithms."""

    factor: float
    exponent: float

    def at(self, ops: float) -> float:
        """The value of the fit."""
        return float(self.factor * ops**self.exponent)


class Series(NamedTuple):
    """Values by ops.

    Attributes:
        ops: Of each step.
        values: What was measured.
        ended: Whether it was measured to its end; what a time limit cut off is not fitted.
    """

    ops: tuple[int, ...]
    values: tuple[float, ...]
    ended: tuple[bool, ...]

    def fit(self) -> Power:
        """Fits what was measured to its end; all of it if that is less than two values."""
        points = list(zip(self.ops, self.values, self.ended, strict=True))
        if sum(self.ended) >= 2:
            points = [point for point in points if point[2]]
        return fitted([ops for ops, _, _ in points], [value for _, value, _ in points])


def layered_llama(layers: int) -> Profile:
    """Estimates a step of a Llama as wide as the 7b."""
    # What loads transformers, loaded only where steps are estimated.
    from transformers import LlamaConfig, LlamaForCausalLM

    from profiles.workloads.language import LLAMA_SHAPES, TextTraining, next_token_training

    shape = LLAMA_SHAPES["7b"]._replace(num_hidden_layers=layers)
    config = LlamaConfig(**shape._asdict(), max_position_embeddings=SEQUENCE)

    def build() -> Workload:
        torch.set_default_dtype(torch.bfloat16)
        try:
            model = LlamaForCausalLM(config)
        finally:
            torch.set_default_dtype(torch.float32)
        how: TextTraining = {
            "sequence": SEQUENCE,
            "batch": BATCH,
            "optimizer": "adamw",
            "learning_rate": 1e-4,
            "precision": "fp32",
            "accumulate": 1,
        }
        return next_token_training(model, how)

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


def series(found: Sequence[SolveFigures]) -> dict[str, Series]:
    """What is fitted and drawn, by name."""
    ops = tuple(figures.ops for figures in found)
    whole = (True,) * len(ops)
    bounded = tuple(figures.bound_source != BoundSource.TRIVIAL for figures in found)
    measured: dict[str, Series] = {}

    def add(name: str, values: Iterable[float], ended: tuple[bool, ...] = whole) -> None:
        measured[name] = Series(ops, tuple(values), ended)

    reached = tuple(f.goal_seconds is not None for f in found)
    add("seconds to within 1% of the bound", (f.goal_seconds or f.seconds for f in found), reached)
    add("linear programs, seconds", (f.lp_seconds for f in found), bounded)
    add("peak memory of the process, MiB", (f.peak_memory_bytes / MIB for f in found))
    add("rows of the largest model", (f.rows for f in found))
    return measured


def draw(panels: Mapping[str, Series]) -> Figure:
    """Draws each over ops, with its fit; what a time limit cut off is drawn as a ring."""
    figure = Figure(figsize=(4 * len(panels), 4), layout="constrained")
    for axes, (name, one) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        power = one.fit()
        for ended, fill, label in ((True, "full", "measured"), (False, "none", "stopped")):
            points = [(n, v) for n, v, e in zip(*one, strict=True) if e is ended]
            if points:
                axes.loglog(*zip(*points, strict=True), "oC0", fillstyle=fill, label=label)
        fitted_values = [power.at(n) for n in one.ops]
        axes.loglog(one.ops, fitted_values, "-C1", label=f"ops ^ {power.exponent:.2f}")
        axes.set_xlabel("ops of the step")
        axes.set_title(name)
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend()
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
    print_headings(HEADINGS)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        made = cases(options.profiles or Path(folder), options.layers, options.time_limit)
        for figures in written(measured_solves(made), options.csv):
            print_row(cells(figures))
            found.append(figures)
    panels = series([figures for figures in found if figures.models])
    print()
    for name, one in panels.items():
        power = one.fit()
        print(f"{name}: {power.factor:.3g} * ops ^ {power.exponent:.2f}")
    if options.png:
        draw(panels).savefig(options.png, dpi=150)


if __name__ == "__main__":
    main(sys.argv[1:])
