"""Runs the experiments and writes their plans into one table.

    python -m paper.make [NAME ...]

Without names it runs all, in about half an hour on two cores; with names, those, and the rows of
the others stay.
"""

import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from paper.experiments import EXPERIMENTS, Experiment
from profiles.schema.files import write_atomically

TABLE = Path(__file__).parent / "limits.csv"
ORDER = [experiment.name for experiment in EXPERIMENTS]


def main(names: list[str]) -> int:
    """Runs the experiments of these names, or all of them."""
    unknown = set(names).difference(ORDER)
    if unknown:
        print(f"There is no experiment {', '.join(sorted(unknown))}; there are {', '.join(ORDER)}.")
        return 2
    for experiment in EXPERIMENTS:
        if not names or experiment.name in names:
            print(experiment.command, flush=True)
            _put(run(experiment))
    return 0


def run(experiment: Experiment) -> pd.DataFrame:
    """Returns the table that an experiment's command writes, with its name and the day."""
    with TemporaryDirectory() as folder:
        table = Path(folder) / "limits.csv"
        words = shlex.split(experiment.command)[1:]
        subprocess.run([sys.executable, "-m", "runtime.cli", *words, "-o", table], check=True)
        rows = pd.read_csv(table)
    rows.insert(0, "experiment", experiment.name)
    rows.insert(1, "computed_on", date.today().isoformat())
    return rows


def _put(rows: pd.DataFrame) -> None:
    """Puts an experiment's rows into the table, in place of the older ones."""
    parts = [rows]
    if TABLE.exists():
        kept = pd.read_csv(TABLE)
        parts.append(kept[kept["experiment"] != rows["experiment"].iloc[0]])
    together = pd.concat([part for part in parts if not part.empty])
    together = together.sort_values(
        "experiment", key=lambda names: names.map(ORDER.index), kind="stable"
    )
    write_atomically(together.to_csv(index=False).encode(), TABLE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
