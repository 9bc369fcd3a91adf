"""What each baseline comes to beside ours, over all cases that were compared.

    python -m tests.benchmarks.baseline_summary --baselines baselines.csv --compared compare.csv

Reads what `tests.benchmarks.bench_baselines` and `tests.benchmarks.bench_compare` wrote. All of it
is simulated.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from planner.studies.compare import HEURISTICS
from tests.benchmarks.bench_compare import TIED_US
from tests.benchmarks.bench_solve import print_rows

CASE = ["profile", "link", "budget_percent"]
HEADINGS = ("baseline", "cases it fits", "beats ours", "ours over its step: median", "best for us")


def summary(baselines: pd.DataFrame, compared: pd.DataFrame) -> pd.DataFrame:
    """Returns one line per baseline, in the order of the registry.

    Columns: `fits`, `beats`, both numbers of cases; `median`, `least`, both ratios of our step to
    its step over the cases it fits (NaN if none).

    Args:
        baselines: Columns of `BaselineFigures`.
        compared: Columns of `tests.benchmarks.bench_compare.Figures`.
    """
    both = baselines.merge(compared.drop(columns="compute_us"), on=CASE)
    both = both[both["fits"]]
    both["ratio"] = (both["compute_us"] + both["ours_us"]) / (both["compute_us"] + both["stall_us"])
    both["beats"] = both["stall_us"] < both["ours_us"] - TIED_US
    grouped = both.groupby("baseline").agg(
        fits=("ratio", "size"),
        beats=("beats", "sum"),
        median=("ratio", "median"),
        least=("ratio", "min"),
    )
    table = grouped.reindex([baseline.name for baseline in HEURISTICS])
    counts = ["fits", "beats"]
    table[counts] = table[counts].fillna(0).astype(int)
    return table


def main(words: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Each baseline beside ours.")
    parser.add_argument("--baselines", type=Path, required=True, metavar="FILE")
    parser.add_argument("--compared", type=Path, required=True, metavar="FILE")
    options = parser.parse_args(words)
    compared = pd.read_csv(options.compared)
    table = summary(pd.read_csv(options.baselines), compared)
    print_rows([HEADINGS, ["---"] * len(HEADINGS)])
    for row in table.itertuples():
        ratios = ["-" if pd.isna(ratio) else f"{ratio:.3f}" for ratio in (row.median, row.least)]
        print_rows([(str(row.Index), f"{row.fits} of {len(compared)}", str(row.beats), *ratios)])


if __name__ == "__main__":
    main()
