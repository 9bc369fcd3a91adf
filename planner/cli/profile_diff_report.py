"""Two profiles side by side, as `plan diff` prints them."""

from typing import TYPE_CHECKING

from planner.cli.diff_report import change_text, print_conditions, print_figures, print_names
from planner.cli.output import print_table
from planner.cli.quantity import size_text, time_text
from planner.differences import Unit
from planner.profile_differences import (
    anchors_that_differ_table,
    first_other_slot,
    kinds_side_by_side_table,
    op_times_table,
    profile_conditions_table,
    profile_figures_table,
    storages_that_differ_table,
)
from profiles.profile import Profile

if TYPE_CHECKING:
    import pandas as pd


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
    _print_anchors(one, other, top)


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


def _print_anchors(one: Profile, other: Profile, top: int) -> None:
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
