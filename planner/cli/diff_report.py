"""Two plans, or two profiles, side by side, as `plan diff` prints them."""

import math
from typing import TYPE_CHECKING

from planner.cli.output import print_line, print_table
from planner.plan.plan import Plan
from planner.report.plan_diff import (
    Moved,
    Unit,
    anchors_table,
    conditions_table,
    figures_table,
    moved_table,
    moved_totals_table,
)
from planner.report.profile_diff import (
    anchors_that_differ_table,
    first_other_slot,
    kinds_side_by_side_table,
    op_times_table,
    profile_conditions_table,
    profile_figures_table,
    storages_that_differ_table,
)
from profiles.schema.profile import Profile
from profiles.schema.units import size_text, time_text

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


def print_profile_differences(
    one: Profile, other: Profile, *, names: tuple[str, str], top: int
) -> None:
    """Prints in what two profiles differ.

    Args:
        one: Called A.
        other: Called B.
        names: Of their files.
        top: How many storages, operators and anchors to list.
    """
    print_names(names)
    print_conditions("Recorded from", profile_conditions_table(one, other))
    print_figures(profile_figures_table(one, other))
    _print_kinds(kinds_side_by_side_table(one, other))
    _print_storages(storages_that_differ_table(one, other), top)
    _print_ops(op_times_table(one, other), top)
    _print_profile_anchors(one, other, top)


def _print_kinds(kinds: "pd.DataFrame") -> None:
    numbers = ("A", "B", "A bytes", "B bytes", "A at peak", "B at peak")
    print_table(
        "Storages by kind",
        ("kind", *numbers),
        [
            (
                str(row.Index),
                str(row.a_storages),
                str(row.b_storages),
                size_text(row.a_size_bytes),
                size_text(row.b_size_bytes),
                size_text(row.a_peak_bytes),
                size_text(row.b_peak_bytes),
            )
            for row in kinds.itertuples()
        ],
        right=numbers,
    )


def _print_storages(storages: "pd.DataFrame", top: int) -> None:
    if storages.empty:
        print("Storages: the same names, bytes, kinds, uses and lifetimes.")
        return
    counts = storages["differs"].value_counts()
    print(f"Storages: {'; '.join(f'{count} {differs}' for differs, count in counts.items())}.")
    listed = storages.head(top)
    if listed.empty:
        return
    print_table(
        f"Storages that differ ({len(listed)} of {len(storages)}, the heaviest first)",
        ("storage", "kind", "A", "B", "differs"),
        [
            (str(row.Index), row.kind, size_text(row.a_bytes), size_text(row.b_bytes), row.differs)
            for row in listed.itertuples()
        ],
        right=("A", "B"),
    )


def _print_ops(ops: "pd.DataFrame", top: int) -> None:
    changed = ops[(ops["change_us"] != 0) | (ops["a_ops"] != ops["b_ops"])]
    if changed.empty:
        print("Times of operators: the same.")
        return
    listed = changed.head(top)
    if listed.empty:
        return
    print_table(
        f"Time by operator ({len(listed)} of {len(changed)} that differ, the largest change first)",
        ("operator", "ops A", "ops B", "A", "B", "from A to B"),
        [
            (
                str(row.Index),
                str(row.a_ops),
                str(row.b_ops),
                time_text(row.a_us),
                time_text(row.b_us),
                change_text(row.change_us, Unit.US),
            )
            for row in listed.itertuples()
        ],
        right=("ops A", "ops B", "A", "B", "from A to B"),
    )


def _print_profile_anchors(one: Profile, other: Profile, top: int) -> None:
    parting = first_other_slot(one, other)
    if parting is None:
        print("Anchors: the same, in the same order.")
        return
    anchors = anchors_that_differ_table(one, other)
    print(f"Anchors: the first {parting} are the same; {len(anchors)} are in one profile only.")
    listed = anchors.groupby("only_in").head(top)
    if listed.empty:
        return
    print_table(
        f"Anchors that only one has (up to {top} each)",
        ("anchor", "only in", "slot"),
        [(row.anchor, row.only_in, str(row.slot)) for row in listed.itertuples(index=False)],
        right=("slot",),
    )
