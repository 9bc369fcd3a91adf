"""Runs the experiments and writes their plans into two tables.

    python -m paper.make [--recompute] [NAME ...]

Without names it runs all, in about an hour on two cores; with names, those, and the rows of the
others stay. With `--recompute` it plans only the largest steps again, as found before.
"""

import math
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from typer.main import get_command

from paper.experiments import EXPERIMENTS, Experiment
from planner.cli.options import parse_settings
from planner.plan.plan import Without
from planner.studies.sweep import (
    LinkChoice,
    SweepPoint,
    SweepSettings,
    solve_point,
    sweep_table,
)
from profiles.hardware.links import COPY_LATENCY_US, nominal_link
from profiles.schema.files import write_atomically
from runtime.cli.app import app
from runtime.cli.growing import choose_growing

TABLE = Path(__file__).parent / "limits.csv"
RECOMPUTE_TABLE = Path(__file__).parent / "recompute.csv"
RECOMPUTE = "--recompute"
TIME_LIMIT_S = 60.0
ORDER = [experiment.name for experiment in EXPERIMENTS]


def main(words: list[str]) -> int:
    """Runs the experiments of these names, or all of them."""
    names = [word for word in words if word != RECOMPUTE]
    unknown = set(names).difference(ORDER)
    if unknown:
        print(f"There is no experiment {', '.join(sorted(unknown))}; there are {', '.join(ORDER)}.")
        return 2
    for experiment in EXPERIMENTS:
        if not names or experiment.name in names:
            print(experiment.command, flush=True)
            if RECOMPUTE not in words:
                _put(run(experiment), TABLE)
            found = pd.read_csv(TABLE)
            found = found[found["experiment"] == experiment.name]
            _put(with_recompute(experiment, found), RECOMPUTE_TABLE)
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


def with_recompute(experiment: Experiment, found: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of the largest setting, planned again by plans that may run ops again.

    How far a setting grows is the same for both: the least memory that a step needs is what its
    widest op uses (`planner.studies.limits.footprint`).
    """
    largest = found[found["setting"] == found["planned_setting"]]
    words = shlex.split(experiment.command)[2:]
    with get_command(app).commands["limits"].make_context("limits", words) as context:  # type: ignore[attr-defined]
        given = context.params
    grown = choose_growing(
        given["workload"],
        key=given["grow"],
        device=given["device"],
        settings=parse_settings(given["setting"]),
        seed=given["seed"],
        multiple_of=given["multiple_of"],
    )
    profile = grown.profile(int(largest["setting"].iloc[0]))
    settings = SweepSettings(time_limit_s=TIME_LIMIT_S, without=Without.NOTHING)
    planned = [
        solve_point(profile, _point(row), settings) for row in largest.itertuples(index=False)
    ]
    again = sweep_table(planned).set_index(largest.index)
    return largest.assign(computed_on=date.today().isoformat(), **dict(again.items()))


def _point(row: Any) -> SweepPoint:
    link = nominal_link(
        row.link,
        row.d2h_bytes_per_us,
        row.h2d_bytes_per_us,
        None if math.isnan(row.both_bytes_per_us) else row.both_bytes_per_us,
        latency_us=COPY_LATENCY_US,
    )
    choice = LinkChoice(
        name=row.link,
        workers=row.workers,
        link=link,
        all_reduce_on_link=row.all_reduce_on_link,
    )
    return SweepPoint(choice=choice, budget_bytes=row.budget_bytes)


def _put(rows: pd.DataFrame, table: Path) -> None:
    """Puts an experiment's rows into a table, in place of the older ones."""
    parts = [rows]
    if table.exists():
        kept = pd.read_csv(table)
        parts.append(kept[kept["experiment"] != rows["experiment"].iloc[0]])
    together = pd.concat([part for part in parts if not part.empty])
    together = together.sort_values(
        "experiment", key=lambda names: names.map(ORDER.index), kind="stable"
    )
    write_atomically(together.to_csv(index=False).encode(), table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
