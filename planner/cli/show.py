"""`plan show`, `plan report` and `plan trace`: a profile or a plan, readable."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from planner.cli.course_sets import format_of_whole, print_plan_set, print_profile_set
from planner.cli.json_output import print_json
from planner.cli.options import AnyFile, AsJson, PlanFile, output_option
from planner.cli.output import Column, print_line, print_rows, print_table, wrote
from planner.cli.output_file import beside, check_output
from planner.plan.plan import Plan
from planner.plan.plan_file import read_plan
from planner.plan.plan_set import PlanSet, read_plan_set
from planner.report.text import (
    CHECKPOINTING,
    OFFERED,
    certificate_rows,
    checkpointing_text,
    link_text,
    moves_nothing,
    sharing_text,
    workload_text,
)
from profiles.library.index import profile_path
from profiles.schema.course_set import course_in
from profiles.schema.files import format_of, write_atomically
from profiles.schema.link import CopyMethod
from profiles.schema.profile import Profile, Provenance
from profiles.schema.profile_file import read_profile
from profiles.schema.profile_set import ProfileSet, read_profile_set
from profiles.schema.units import size_text, time_text

if TYPE_CHECKING:
    import pandas as pd

ANCHOR_WIDTH = 20
FIGURE_KEYS = ("figure", "value", "comes_from")
GROWS = (
    "Memory grows by {} each step ({}): a plan for this step breaks its budget some steps later. "
    "Let go of what each step adds (losses with their graph, logged tensors), or record when it "
    "has stopped growing."
)


def show(
    file: AnyFile,
    png: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also draw memory over the step into this PNG file."),
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="How many storages or swaps to list.")] = 15,
    as_json: AsJson = False,
) -> None:
    """Shows a profile or a plan: figures, storages or swaps, and memory over the step."""
    if png is not None:
        check_output(png, keep=file)
    if png is None and not as_json and _shows_courses(file):
        return
    content = read_any(file)
    if as_json:
        _print_as_json(content)
    elif isinstance(content, Plan):
        print_plan(content, top=top)
    else:
        print_profile(content, top=top)
    if png is not None:
        _draw(content, profile_path(file).name, png)
        wrote(png, error=as_json)


def _shows_courses(file: Path) -> bool:
    """Lists the courses of a file that holds several."""
    found = format_of_whole(file)
    if found == ProfileSet.FORMAT:
        print_profile_set(read_profile_set(file))
    elif found == PlanSet.FORMAT:
        print_plan_set(read_plan_set(file))
    else:
        return False
    return True


def report(
    plan: PlanFile,
    output: Annotated[Path | None, output_option("x.html beside x.plan.json")] = None,
) -> None:
    """Writes a plan as one HTML page: figures, memory, lanes to zoom into, and every swap."""
    from planner.report.page import report_page

    def write(read: Plan, path: Path) -> None:
        write_atomically(report_page(read).encode(), path)

    _write_plan(plan, output or beside(plan, ".html"), write)


def trace(
    plan: PlanFile,
    output: Annotated[Path | None, output_option("x.trace.json beside x.plan.json")] = None,
) -> None:
    """Writes a plan's simulated step as a trace, for ui.perfetto.dev or chrome://tracing."""
    from planner.report.perfetto import write_trace

    _write_plan(plan, output or beside(plan, ".trace.json"), write_trace)


def _write_plan(plan: Path, output: Path, write: Callable[[Plan, Path], None]) -> None:
    check_output(output, keep=plan)
    write(read_plan(profile_path(plan)), output)
    wrote(output)


def read_any(file: Path) -> Plan | Profile:
    """Reads a plan or a profile, whichever it is.

    Raises:
        FileError: It is neither.
    """
    path = profile_path(file)
    found = format_of(course_in(path)[0])
    return read_plan(path) if found in (Plan.FORMAT, PlanSet.FORMAT) else read_profile(path)


def _print_as_json(content: Plan | Profile) -> None:
    from planner.report import tables

    if isinstance(content, Plan):
        about = content.model_dump(
            mode="json", exclude={"storages", "slots", "swaps", "rebuilds", "model"}
        )
        print_json(
            plan=about,
            figures=[dict(zip(FIGURE_KEYS, row, strict=True)) for row in certificate_rows(content)],
            swaps=tables.swaps_table(content),
            rebuilds=tables.rebuilds_table(content),
        )
        return
    about = content.model_dump(mode="json", exclude={"storages", "slots", "ops", "model"})
    print_json(
        profile={**about, "peak_bytes": content.peak_bytes, "step_us": content.step_us},
        kinds=tables.kinds_table(content),
        left_out=tables.left_out_table(content),
        storages=tables.storages_table(content),
    )


def print_profile(profile: Profile, *, top: int) -> None:
    """Prints a profile: the step, its storages by kind, the largest, and what was left out."""
    from planner.report.tables import kinds_table, left_out_table, storages_table

    _print_step(profile)
    print_growth(profile)
    _print_kinds(profile, kinds_table(profile))
    if top:
        storages = storages_table(profile).nlargest(top, "size_bytes")
        print_rows(
            f"Largest storages ({len(storages)} of {len(profile.storages)})",
            storages.itertuples(),
            ("id", "Index", str),
            ("name", "name"),
            ("kind", "kind"),
            ("bytes", "size_bytes", size_text),
            ("uses", "uses", str),
            ("module", "module"),
            ("left out", "left_out"),
        )
    left_out = left_out_table(profile)
    if left_out.empty:
        print("Left out: nothing; every storage can be moved.")
        return
    print_rows(
        f"Left out: never moved ({profile.times.value})",
        left_out.reset_index().itertuples(),
        ("because", "left_out"),
        ("kind", "kind"),
        ("storages", "storages", str),
        ("all together", "size_bytes", size_text),
        ("at the peak", "peak_bytes", size_text),
    )


def print_growth(profile: Profile) -> None:
    """Says that a step leaves more than it found, if it does: no plan holds for good then."""
    if profile.growth_bytes > 0:
        print_line(GROWS.format(size_text(profile.growth_bytes), profile.times.value))


def print_plan(plan: Plan, *, top: int) -> None:
    """Prints a plan: its certificate, and the largest of its swaps and of what it drops."""
    if moves_nothing(plan):
        print("The step fits within the budget without swapping; the plan is empty.")
    print_table(
        f"Plan for {workload_text(plan)}",
        ("", "value", "figure is"),
        certificate_rows(plan),
        right=("value",),
    )
    if plan.rebuilds:
        print(OFFERED)
    if top and plan.swaps:
        _print_swaps(plan, top)
    if top and plan.rebuilds:
        _print_rebuilds(plan, top)


def _print_step(profile: Profile) -> None:
    device, how = profile.device, profile.times.value
    rounds = f", {profile.timed_steps} steps" if profile.times is Provenance.MEASURED else ""
    steps_before = "none"
    if profile.times is not Provenance.ESTIMATED:
        settled = "settled" if profile.settled else "not settled yet"
        steps_before = f"{profile.warmup_steps}, times {settled}"
    shared_by = "" if profile.sharing is None else profile.sharing.source
    print_table(
        f"One step of {workload_text(profile)}",
        ("", "value", "figure is"),
        (
            ("device", f"{device.kind}: {device.name}", ""),
            ("compute threads", str(device.compute_threads), ""),
            ("peak", size_text(profile.peak_bytes), how),
            ("step time", time_text(profile.step_us), how + rounds),
            ("a slot's time is", profile.slot_times.value, ""),
            *(
                [(CHECKPOINTING, checkpointing_text(profile), "given")]
                if profile.without_checkpointing
                else ()
            ),
            ("steps before", steps_before, ""),
            ("ops", str(len(profile.ops)), how),
            ("anchors", str(len(profile.slots)), how),
            ("storages", str(len(profile.storages)), how),
            ("link", link_text(profile.link), profile.link.provenance.value),
            ("workers share", sharing_text(profile.sharing), shared_by),
        ),
        right=("value",),
    )


def _print_kinds(profile: Profile, kinds: "pd.DataFrame") -> None:
    from planner.report.tables import peak_overhead_bytes

    numbers = ("all together", "at the peak", "left out")
    rows = [
        (str(kind), str(storages), *map(size_text, sizes_bytes))
        for kind, storages, *sizes_bytes in kinds.itertuples()
    ]
    rows.append(("beyond storages", "", "", size_text(peak_overhead_bytes(profile)), ""))
    print_table(
        f"Storages by kind ({profile.times.value})",
        ("kind", "storages", *numbers),
        rows,
        right=("storages", *numbers),
    )


def _print_swaps(plan: Plan, top: int) -> None:
    from planner.report.tables import swaps_table

    swaps = swaps_table(plan).nlargest(top, "size_bytes").sort_index()
    is_plain = (swaps["engine"] == CopyMethod.DMA.value).all()
    engine: tuple[Column, ...] = (("engine", lambda row: row.engine.replace("_", " ")),)
    print_rows(
        f"Largest swaps ({len(swaps)} of {len(plan.swaps)}; slack in ms, simulated: how long "
        "before compute asks for it a copy is over; clean: none is needed)",
        swaps.rename(columns={"await": "awaited"}).itertuples(),
        ("storage", _storage_text),
        ("bytes", "size_bytes", size_text),
        ("slack out", "out_slack_us", _slack_text),
        ("slack back", "in_slack_us", _slack_text),
        *(() if is_plain else engine),
        ("swap-out", "swap_out"),
        ("release", "release"),
        ("swap-in", "swap_in"),
        ("await", "awaited"),
        text_width=ANCHOR_WIDTH,
    )


def _print_rebuilds(plan: Plan, top: int) -> None:
    from planner.report.tables import rebuilds_table

    table = rebuilds_table(plan)
    largest = table.nlargest(top, "size_bytes").sort_index()
    first = ~largest.duplicated("rebuild")
    print_rows(
        f"Largest of what is dropped and rebuilt ({len(largest)} of {len(table)}; takes: "
        f"{plan.times.value}, op by op; below an empty one: made by the ops above)",
        largest.assign(is_first=first).itertuples(),
        ("storage", _storage_text),
        ("bytes", "size_bytes", size_text),
        ("takes", lambda row: time_text(row.recompute_us) if row.is_first else "", str),
        ("dropped at", "dropped"),
        ("rebuilt at", "rebuilt"),
        ("by", lambda row: row.ops if row.is_first else ""),
        text_width=ANCHOR_WIDTH,
    )


def _storage_text(row: Any) -> str:
    return f"{row.module} ({row.name})" if row.module else row.name


def _slack_text(slack_us: float) -> str:
    return "clean" if math.isnan(slack_us) else f"{slack_us / 1e3:.1f}"


def _draw(content: Profile | Plan, name: str, png: Path) -> None:
    from planner.report.plots import memory_figure, png_bytes

    if isinstance(content, Plan):
        from planner.report.step_plot import step_figure

        budget = size_text(content.budget_bytes)
        figure = step_figure(content, title=f"{name}: one step within {budget}")
    else:
        from planner.report.tables import memory_table

        title = f"Memory over one step: {name}"
        figure = memory_figure(memory_table(content), title=title, times=content.times)
    write_atomically(png_bytes(figure), png)
