"""`plan diff`: two plans, or two profiles, side by side."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli import options
from planner.cli.json_output import print_json
from planner.cli.output import Column, print_line, print_rows
from planner.plan.plan import Plan
from profiles.schema.errors import FileError
from profiles.schema.profile import Profile
from profiles.schema.units import size_text, time_text

if TYPE_CHECKING:
    import pandas as pd


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help=options.ANY_FILE)],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another of the same kind.")],
    top: Annotated[
        int, typer.Option(min=0, help="How many storages, anchors or operators to list.")
    ] = 15,
    as_json: options.AsJson = False,
) -> None:
    """Compares two plans, or two profiles: what differs, what that costs, and why."""
    from planner.cli.show import read_any
    from planner.report.diff import conditions_table, figures_table

    # Read before anything is printed, so that a wrong second file leaves no half of an answer.
    one, other = read_any(a), read_any(b)
    if type(one) is not type(other):
        raise FileError(
            f"{a} is a {_kind(one)} and {b} is a {_kind(other)}: they cannot be compared. Give two "
            "plans or two profiles."
        )
    conditions = conditions_table(one, other)
    if as_json:
        print_json(conditions=conditions, figures=figures_table(one, other), **_details(one, other))
        return
    print_line(f"A: {a}\nB: {b}")
    _print_conditions("Made for" if isinstance(one, Plan) else "Recorded from", conditions)
    _print_figures(figures_table(one, other))
    if isinstance(one, Plan) and isinstance(other, Plan):
        _print_plans(one, other, top, is_alike=bool(conditions["same"].all()))
    elif isinstance(one, Profile) and isinstance(other, Profile):
        _print_profiles(one, other, top)


def _details(one: Plan | Profile, other: Plan | Profile) -> "dict[str, pd.DataFrame]":
    """Every table of what differs."""
    from planner.report import diff as tables

    if isinstance(one, Plan) and isinstance(other, Plan):
        return {
            "moved": tables.moved_table(one, other),
            "anchors": tables.anchors_table(one, other),
            "rebuilt": tables.rebuilt_table(one, other),
        }
    assert isinstance(one, Profile)
    assert isinstance(other, Profile)
    return {
        "kinds": tables.kinds_side_by_side_table(one, other),
        "storages": tables.storages_that_differ_table(one, other),
        "operators": tables.op_times_table(one, other),
        "anchors": tables.anchors_that_differ_table(one, other),
    }


def _kind(content: Plan | Profile) -> str:
    return "plan" if isinstance(content, Plan) else "profile"


def _print_conditions(title: str, conditions: "pd.DataFrame") -> None:
    differing = conditions[~conditions["same"]]
    same = ", ".join(conditions.index[conditions["same"]])
    if differing.empty:
        print_line(f"{title} the same: {same}.")
        return
    columns = (("", "Index"), ("A", "a"), ("B", "b"))
    print_rows(f"{title}, where they differ", differing.itertuples(), *columns)
    print_line(f"The same in both: {same}.")


def _print_figures(figures: "pd.DataFrame") -> None:
    print_rows(
        "Figures",
        figures.itertuples(),
        ("", "Index"),
        ("A", lambda row: _figure_text(row.a, row.unit), str),
        ("B", lambda row: _figure_text(row.b, row.unit), str),
        ("from A to B", lambda row: _change_text(row.change, row.unit), str),
        ("they are", lambda row: row.a_is if row.a_is == row.b_is else f"{row.a_is}, {row.b_is}"),
    )


def _figure_text(value: float, unit: str) -> str:
    texts = {"bytes": size_text, "us": time_text, "share": "{:.2%}".format}
    return texts.get(unit, "{:.0f}".format)(value)


def _change_text(change: float, unit: str) -> str:
    """Writes a change with its sign, or that there is none."""
    if change == 0:
        return "same"
    return f"{'+' if change > 0 else '-'}{_figure_text(abs(change), unit)}"


def _change_us_text(change_us: float) -> str:
    return "" if math.isnan(change_us) else _change_text(change_us, "us")


def _print_plans(one: Plan, other: Plan, top: int, *, is_alike: bool) -> None:
    """Prints what two plans move, and where."""
    from planner.report.diff import (
        Moved,
        anchors_table,
        moved_table,
        moved_totals_table,
        rebuilt_table,
    )

    moved = moved_table(one, other)
    print_rows(
        "Storages that move (simulated)",
        moved_totals_table(moved).itertuples(),
        ("", "Index"),
        ("storages", "storages", str),
        ("A, per step", "a_bytes", size_text),
        ("B, per step", "b_bytes", size_text),
    )
    if top:
        for only, mover, stayer in ((Moved.ONLY_A, "a", "B"), (Moved.ONLY_B, "b", "A")):
            _print_top(
                f"Moved {only} ({{}}, the heaviest first)",
                moved[moved["moved"] == only],
                top,
                ("storage", "Index"),
                ("kind", "kind"),
                ("module", "module"),
                ("bytes", f"{mover}_bytes", size_text),
                ("swaps", f"{mover}_swaps", str),
                (f"why not in {stayer}", lambda row: row.why or "its choice"),
            )
        _print_anchors(anchors_table(one, other), top)
        _print_top(
            "Dropped and rebuilt in one or both ({}, the heaviest first)",
            rebuilt_table(one, other),
            top,
            ("storage", lambda row: f"{row.module} ({row.Index})" if row.module else row.Index),
            ("bytes", "size_bytes", size_text),
            ("A", "a"),
            ("B", "b"),
        )
    if is_alike and (moved["moved"] == Moved.ALIKE).all() and one.rebuilds == other.rebuilds:
        print("The two plans are alike: the same swaps at the same anchors.")


def _print_top(title: str, table: "pd.DataFrame", top: int, *columns: Column) -> None:
    """Prints the first rows, if there are any, and in the title how many of how many."""
    listed = table.head(top)
    if not listed.empty:
        title = title.format(f"{len(listed)} of {len(table)}")
        print_rows(title, listed.itertuples(), *columns)


def _print_anchors(anchors: "pd.DataFrame", top: int) -> None:
    if anchors.empty:
        return
    names = anchors["name"].drop_duplicates()
    listed = anchors[anchors["name"].isin(set(names.head(top)))]
    count = f"{min(top, len(names))} of {len(names)} storages, the heaviest first"
    print_rows(
        f"Moved in both, at other anchors ({count}; later: in the step with nothing moved)",
        listed.itertuples(),
        ("storage", lambda row: row.name if row.swap == 1 else f"{row.name} again"),
        ("", "what"),
        ("A", lambda row: row.a or "no such swap"),
        ("B", lambda row: row.b or "no such swap"),
        ("B is later by", "later_us", _change_us_text),
    )
    if anchors["later_us"].isna().all():
        print("How much later is not known: the slots of the two are not the same.")


def _print_profiles(one: Profile, other: Profile, top: int) -> None:
    """Prints in what two profiles differ: storages, operators and anchors."""
    from planner.report.diff import (
        kinds_side_by_side_table,
        op_times_table,
        storages_that_differ_table,
    )

    print_rows(
        "Storages by kind",
        kinds_side_by_side_table(one, other).itertuples(),
        ("kind", "Index"),
        ("A", "a_storages", str),
        ("B", "b_storages", str),
        ("A bytes", "a_size_bytes", size_text),
        ("B bytes", "b_size_bytes", size_text),
        ("A at peak", "a_peak_bytes", size_text),
        ("B at peak", "b_peak_bytes", size_text),
    )
    _print_storages(storages_that_differ_table(one, other), top)
    _print_ops(op_times_table(one, other), top)
    _print_profile_anchors(one, other, top)


def _print_storages(storages: "pd.DataFrame", top: int) -> None:
    if storages.empty:
        print("Storages: the same names, bytes, kinds, uses and lifetimes.")
        return
    counts = storages["differs"].value_counts()
    print(f"Storages: {'; '.join(f'{count} {differs}' for differs, count in counts.items())}.")
    _print_top(
        "Storages that differ ({}, the heaviest first)",
        storages,
        top,
        ("storage", "Index"),
        ("kind", "kind"),
        ("A", "a_bytes", size_text),
        ("B", "b_bytes", size_text),
        ("differs", "differs"),
    )


def _print_ops(ops: "pd.DataFrame", top: int) -> None:
    changed = ops[(ops["change_us"] != 0) | (ops["a_ops"] != ops["b_ops"])]
    if changed.empty:
        print("Times of operators: the same.")
    _print_top(
        "Time by operator ({} that differ, the largest change first)",
        changed,
        top,
        ("operator", "Index"),
        ("ops A", "a_ops", str),
        ("ops B", "b_ops", str),
        ("A", "a_us", time_text),
        ("B", "b_us", time_text),
        ("from A to B", "change_us", _change_us_text),
    )


def _print_profile_anchors(one: Profile, other: Profile, top: int) -> None:
    from planner.report.diff import anchors_that_differ_table, first_other_slot

    parting = first_other_slot(one, other)
    if parting is None:
        print("Anchors: the same, in the same order.")
        return
    anchors = anchors_that_differ_table(one, other)
    print(f"Anchors: the first {parting} are the same; {len(anchors)} are in one profile only.")
    listed = anchors.groupby("only_in").head(top)
    if not listed.empty:
        print_rows(
            f"Anchors that only one has (up to {top} each)",
            listed.itertuples(),
            ("anchor", "anchor"),
            ("only in", "only_in"),
            ("slot", "slot", str),
        )
