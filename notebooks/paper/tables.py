"""What the experiments found, and what the Large Model Support family published, as tables."""

from io import StringIO
from pathlib import Path

import pandas as pd

from paper.experiments import EXPERIMENTS

AXES = {experiment.name: experiment.question.axes for experiment in EXPERIMENTS}
COMMANDS = {experiment.name: experiment.command for experiment in EXPERIMENTS}
QUESTIONS = {experiment.name: experiment.question.value for experiment in EXPERIMENTS}
FOLDER = Path(__file__).parent
POWERS = {1: "", 2: "²", 3: "³"}


def limits_found() -> pd.DataFrame:
    """Returns the plans of all experiments, one row each: copies alone.

    Columns: `experiment`, `computed_on` (a day), those of `planner.studies.limits.limits_table`,
    `question`, `slower` (step under the plan over the step with nothing moved, less 1; simulated),
    `slower_bound` (what no plan can be below) and `oversubscribed` (peak with nothing moved over
    the budget).
    """
    return _found("limits.csv")


def recompute_found() -> pd.DataFrame:
    """Returns the plans of the largest steps that may run ops again, as `limits_found` does."""
    return _found("recompute.csv")


def _found(name: str) -> pd.DataFrame:
    table = pd.read_csv(StringIO(_part(name)))
    return table.assign(
        question=table["experiment"].map(QUESTIONS),
        slower=table["step_us"] / table["compute_us"] - 1,
        slower_bound=table["bound_step_us"] / table["compute_us"] - 1,
        oversubscribed=table["peak_without_bytes"] / table["budget_bytes"],
    )


def published() -> pd.DataFrame:
    """Returns what the family published.

    Columns: `experiment` (the one of ours that asks the same), `published`, `by`, `hardware`,
    `source`, `read` (whether the source itself was read, or only its abstract), `why` (what the
    difference to ours comes from).
    """
    return pd.read_csv(StringIO(_part("published.csv")), keep_default_na=False)


def largest_table(limits: pd.DataFrame, both: pd.DataFrame) -> pd.DataFrame:
    """Returns one row per experiment: how far its setting grows, and how slow that is.

    Columns: `experiment` (index), `question`, `device`, `without` and `planned` (the largest
    settings), `factor` (voxels, pixels or samples, with a plan over without), `slower` (how
    much, in words, at the largest, with copies alone), `host_pool_bytes` (the most that one worker
    needs for that), `slower_with_recompute` (the same where ops may run again; "" if that was not
    planned).

    Args:
        limits: From `limits_found`.
        both: From `recompute_found`.
    """
    largest = limits[limits["setting"] == limits["planned_setting"]]
    largest = largest.assign(text=_slower_text(largest))
    rows = largest.groupby("experiment", sort=False)
    again = both.assign(text=_slower_text(both)).groupby("experiment")["text"].agg(", ".join)
    first = rows.first()
    axes = first.index.map(AXES)
    return pd.DataFrame(
        {
            "question": first["question"],
            "device": first["device"],
            "without": first["without_setting"],
            "planned": first["planned_setting"],
            "factor": (first["planned_setting"] / first["without_setting"]) ** axes,
            "slower": rows["text"].agg(", ".join),
            "host_pool_bytes": rows["host_pool_bytes"].max(),
            "slower_with_recompute": again.reindex(first.index, fill_value=""),
        }
    )


def comparison_markdown(limits: pd.DataFrame, both: pd.DataFrame, theirs: pd.DataFrame) -> str:
    """Returns the one table: published figures beside ours, and under each of ours its command.

    Args:
        limits: From `limits_found`.
        both: From `recompute_found`.
        theirs: From `published`.
    """
    theirs = theirs.assign(text=_published_text(theirs))
    said = theirs.groupby("experiment")["text"].agg("<br>".join)
    why = theirs.groupby("experiment")["why"].agg(lambda texts: " ".join(filter(None, texts)))
    table = largest_table(limits, both)
    again = table["slower_with_recompute"]
    again = ("<br>with recompute: step " + again).where(again != "", "")
    power = table.index.map(AXES).map(POWERS)
    grown = table["without"].astype(str) + power + " → " + table["planned"].astype(str) + power
    cells = pd.DataFrame(
        {
            "question": table["question"] + ", " + table["device"],
            "published": said.reindex(table.index, fill_value="nothing that was read"),
            "ours: estimated steps, simulated plans": (
                "**"
                + grown
                + table["factor"].map(" ({:.1f}x)**, step ".format)
                + table["slower"]
                + again
                + "<br>`"
                + table.index.map(COMMANDS)
                + "`"
            ),
            "why they differ": why.reindex(table.index, fill_value=""),
        }
    )
    lines = [cells.columns, ["---"] * len(cells.columns), *cells.to_numpy()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _slower_text(rows: pd.DataFrame) -> "pd.Series[str]":
    together = rows["workers"].map(" with {} workers".format).where(rows["workers"] > 1, "")
    return rows["slower"].map("{:+.0%} over ".format) + rows["link"] + together


def _published_text(rows: pd.DataFrame) -> "pd.Series[str]":
    hardware = (", " + rows["hardware"]).where(rows["hardware"] != "", "")
    abstract = rows["read"].map({"source": "", "abstract": ", abstract"})
    place = " (" + rows["source"] + abstract + ")"
    return "**" + rows["published"] + "** " + rows["by"] + hardware + place


def _part(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
