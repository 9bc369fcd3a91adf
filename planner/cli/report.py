"""Profiles and plans as the tables the commands print."""

import math

from planner.cli.output import print_line, print_table
from planner.plan.plan import Plan
from planner.report.tables import (
    kinds_table,
    left_out_table,
    memory_table,
    peak_overhead_bytes,
    storages_table,
    swaps_table,
)
from planner.report.text import certificate_rows, link_text, sharing_text, workload_text
from profiles.schema.link import Sharing
from profiles.schema.profile import Profile, Provenance
from profiles.schema.units import size_text, time_text


def print_profile(profile: Profile, *, top: int) -> None:
    """Prints a profile: the step, its storages by kind, the largest, and what was left out."""
    _print_step(profile)
    print_growth(profile)
    _print_kinds(profile)
    if top:
        _print_largest(profile, top)
    _print_left_out(profile)


def print_growth(profile: Profile) -> None:
    """Says that a step leaves more than it found, if it does: no plan holds for good then."""
    if profile.growth_bytes > 0:
        print_line(
            f"Memory grows by {size_text(profile.growth_bytes)} each step "
            f"({profile.times.value}): a plan for this step breaks its budget some steps later. "
            "Let go of what each step adds (losses with their graph, logged tensors), or record "
            "when it has stopped growing."
        )


def print_plan(plan: Plan, *, top: int) -> None:
    """Prints a plan: its certificate, and the largest of its swaps."""
    if not plan.swaps:
        print("The step fits within the budget without swapping; the plan is empty.")
    print_table(
        f"Plan for {workload_text(plan)}",
        ("", "value", "figure is"),
        certificate_rows(plan),
        right=("value",),
    )
    if top and plan.swaps:
        _print_swaps(plan, top)


def _print_step(profile: Profile) -> None:
    peak_bytes = memory_table(profile)["without_bytes"].max()
    device, how = profile.device, profile.times.value
    rounds = f", {profile.timed_steps} steps" if profile.times is Provenance.MEASURED else ""
    print_table(
        f"One step of {workload_text(profile)}",
        ("", "value", "figure is"),
        (
            ("device", f"{device.kind}: {device.name}", ""),
            ("compute threads", str(device.compute_threads), ""),
            ("peak", size_text(peak_bytes), how),
            ("step time", time_text(profile.step_us), how + rounds),
            ("a slot's time is", profile.slot_times.value, ""),
            ("steps before", _steps_before(profile), ""),
            ("ops", str(len(profile.ops)), how),
            ("anchors", str(len(profile.slots)), how),
            ("storages", str(len(profile.storages)), how),
            ("link", link_text(profile.link), profile.link.provenance.value),
            ("workers share", sharing_text(profile.sharing), _said_by(profile.sharing)),
        ),
        right=("value",),
    )


def _said_by(sharing: Sharing | None) -> str:
    return "" if sharing is None else sharing.source


def _steps_before(profile: Profile) -> str:
    if profile.times is Provenance.ESTIMATED:
        return "none"
    return f"{profile.warmup_steps}, times {'settled' if profile.settled else 'not settled yet'}"


def _print_kinds(profile: Profile) -> None:
    print_table(
        f"Storages by kind ({profile.times.value})",
        ("kind", "storages", "all together", "at the peak", "left out"),
        [
            (
                str(row.Index),
                str(row.storages),
                size_text(row.size_bytes),
                size_text(row.peak_bytes),
                size_text(row.left_out_bytes),
            )
            for row in kinds_table(profile).itertuples()
        ]
        + [("beyond storages", "", "", size_text(peak_overhead_bytes(profile)), "")],
        right=("storages", "all together", "at the peak", "left out"),
    )


def _print_largest(profile: Profile, top: int) -> None:
    table = storages_table(profile).nlargest(top, "size_bytes")
    print_table(
        f"Largest storages ({len(table)} of {len(profile.storages)})",
        ("id", "name", "kind", "bytes", "uses", "module", "left out"),
        [
            (
                str(row.Index),
                row.name,
                row.kind,
                size_text(row.size_bytes),
                str(row.uses),
                row.module,
                row.left_out,
            )
            for row in table.itertuples()
        ],
        right=("id", "bytes", "uses"),
    )


def _print_left_out(profile: Profile) -> None:
    table = left_out_table(profile)
    if table.empty:
        print("Left out: nothing; every storage can be moved.")
        return
    print_table(
        f"Left out: never moved ({profile.times.value})",
        ("because", "kind", "storages", "all together", "at the peak"),
        [
            (
                *map(str, row.Index),
                str(row.storages),
                size_text(row.size_bytes),
                size_text(row.peak_bytes),
            )
            for row in table.itertuples()
        ],
        right=("storages", "all together", "at the peak"),
    )


def _print_swaps(plan: Plan, top: int) -> None:
    table = swaps_table(plan).nlargest(top, "size_bytes").sort_index()
    print_table(
        f"Largest swaps ({len(table)} of {len(plan.swaps)}; slack in ms, simulated: how long "
        "before compute asks for it a copy is over; clean: none is needed)",
        (
            "storage",
            "bytes",
            "swap-out",
            "release",
            "slack",
            "swap-in",
            "await",
            "slack ",
            "engine",
        ),
        [
            (
                row.name,
                size_text(row.size_bytes),
                row.swap_out,
                row.release,
                _slack_text(row.out_slack_us),
                row.swap_in,
                row._7,
                _slack_text(row.in_slack_us),
                row.engine.replace("_", " "),
            )
            for row in table.itertuples()
        ],
        right=("bytes", "slack", "slack "),
    )


def _slack_text(slack_us: float) -> str:
    return "clean" if math.isnan(slack_us) else f"{slack_us / 1e3:.1f}"
