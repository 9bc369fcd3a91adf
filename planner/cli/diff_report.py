"""Two plans side by side, as `plan diff` prints them."""

import math
from typing import TYPE_CHECKING

from planner.cli.output import print_line, print_table
from planner.cli.quantity import size_text, time_text
from planner.differences import (
    Moved,
    Unit,
    anchors_table,
    conditions_table,
    figures_table,
    moved_table,
    moved_totals_table,
)
from planner.plan import Plan

if TYPE_CHECKING:
    import pandas as pd


def print_plan_differences(one: Plan, other: Plan, *, names: tuple[str, str], top: int) -> None:
    """Prints what two plans do differently, what that costs, and why.

    Args:
        one: Called A.
        other: Called B.
        names: Of their files.
        top: How many storages and anchors to list.
    """
    conditions, moved = conditions_table(one, other), moved_table(one, other)
    print_names(names)
    print_conditions("Made for", conditions)
    print_figures(figures_table(one, other))
    _print_totals(moved)
    if top:
        _print_moved(moved, top)
        _print_anchors(anchors_table(one, other), top)
    if conditions["same"].all() and (moved["moved"] == Moved.ALIKE.value).all():
        print("The two plans are alike: the same swaps at the same anchors.")


def print_names(names: tuple[str, str]) -> None:
    """Says which file is A and which is B."""
    for letter, name in zip("AB", names, strict=True):
        print_line(f"{letter}: {name}")


def print_conditions(title: str, conditions: "pd.DataFrame") -> None:
    """Prints in what two things' makings differ, and names what is the same.

    Args:
        title: What both were made for or from.
        conditions: From `conditions_table`.
    """
    differing = conditions[~conditions["same"]]
    same = ", ".join(conditions.index[conditions["same"]])
    if differing.empty:
        print_line(f"{title} the same: {same}.")
        return
    rows = [(str(row.Index), row.a, row.b) for row in differing.itertuples()]
    print_table(f"{title}, where they differ", ("", "A", "B"), rows)
    print_line(f"The same in both: {same}.")


def print_figures(figures: "pd.DataFrame") -> None:
    """Prints figures side by side.

    Args:
        figures: From `figures_table`.
    """
    print_table(
        "Figures",
        ("", "A", "B", "from A to B", "they are"),
        [
            (
                str(row.Index),
                figure_text(row.a, row.unit),
                figure_text(row.b, row.unit),
                change_text(row.change, row.unit),
                row.a_is if row.a_is == row.b_is else f"{row.a_is}, {row.b_is}",
            )
            for row in figures.itertuples()
        ],
        right=("A", "B", "from A to B"),
    )


def figure_text(value: float, unit: Unit) -> str:
    """Writes a figure in its unit."""
    if unit is Unit.BYTES:
        return size_text(value)
    if unit is Unit.US:
        return time_text(value)
    return f"{value:.2%}" if unit is Unit.SHARE else f"{value:.0f}"


def change_text(change: float, unit: Unit) -> str:
    """Writes a change with its sign, or that there is none."""
    if change == 0:
        return "same"
    return f"{'+' if change > 0 else '-'}{figure_text(abs(change), unit)}"


def _print_totals(moved: "pd.DataFrame") -> None:
    print_table(
        "Storages that move (simulated)",
        ("", "storages", "A, per step", "B, per step"),
        [
            (str(row.Index), str(row.storages), size_text(row.a_bytes), size_text(row.b_bytes))
            for row in moved_totals_table(moved).itertuples()
        ],
        right=("storages", "A, per step", "B, per step"),
    )


def _print_moved(moved: "pd.DataFrame", top: int) -> None:
    for which, letter in ((Moved.ONLY_A, "a"), (Moved.ONLY_B, "b")):
        rows = moved[moved["moved"] == which.value]
        if rows.empty:
            continue
        listed = rows.head(top)
        other = "B" if letter == "a" else "A"
        print_table(
            f"Moved {which.value} ({len(listed)} of {len(rows)}, the heaviest first)",
            ("storage", "kind", "module", "bytes", "trips", f"why not in {other}"),
            [
                (
                    str(row.Index),
                    row.kind,
                    row.module,
                    size_text(getattr(row, f"{letter}_bytes")),
                    str(getattr(row, f"{letter}_trips")),
                    row.why or "its choice",
                )
                for row in listed.itertuples()
            ],
            right=("bytes", "trips"),
        )


def _print_anchors(anchors: "pd.DataFrame", top: int) -> None:
    if anchors.empty:
        return
    names = anchors["name"].drop_duplicates()
    listed = anchors[anchors["name"].isin(set(names.head(top)))]
    rows = [
        (
            row.name if row.trip == 1 else f"{row.name} again",
            row.what,
            row.a or "no such trip",
            row.b or "no such trip",
            "" if math.isnan(row.later_us) else change_text(row.later_us, Unit.US),
        )
        for row in listed.itertuples(index=False)
    ]
    count = f"{min(top, len(names))} of {len(names)} storages, the heaviest first"
    print_table(
        f"Moved in both, at other anchors ({count}; later: in the step with nothing moved)",
        ("storage", "", "A", "B", "B is later by"),
        rows,
        right=("B is later by",),
    )
    if anchors["later_us"].isna().all():
        print("How much later is not known: the slots of the two are not the same.")
