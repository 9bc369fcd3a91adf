"""Profiles and plans as the tables the commands print."""

from planner.cli.output import print_table
from planner.cli.quantity import rate_text, size_text, time_text
from planner.plan import Plan, Proof
from planner.tables import (
    kinds_table,
    left_out_table,
    memory_table,
    peak_overhead_bytes,
    storages_table,
    swaps_table,
)
from profiles.profile import Link, Profile, Provenance


def print_profile(profile: Profile, *, top: int) -> None:
    """Prints a profile: the step, its storages by kind, the largest, and what was left out."""
    _print_step(profile)
    _print_kinds(profile)
    if top:
        _print_largest(profile, top)
    _print_left_out(profile)


def print_plan(plan: Plan, *, top: int) -> None:
    """Prints a plan: its certificate, and the largest of its swaps."""
    if not plan.swaps:
        print("The step fits within the budget without swapping; the plan is empty.")
    print_table(
        f"Plan for {_workload(plan)}",
        ("", "value", "figure is"),
        _certificate_rows(plan),
        right=("value",),
    )
    if top and plan.swaps:
        _print_swaps(plan, top)


def _workload(source: Profile | Plan) -> str:
    settings = "".join(f" {key}={value}" for key, value in source.workload.settings)
    return f"{source.workload.reference or 'a step recorded from Python'}{settings}"


def _link(link: Link) -> str:
    d2h, h2d = rate_text(link.d2h_bytes_per_us), rate_text(link.h2d_bytes_per_us)
    both = link.both_bytes_per_us
    # The planner does not share a rate between directions yet; nobody should think it does.
    together = f"; together {rate_text(both)}, not planned for" if both is not None else ""
    return f"{link.name}, {d2h} out, {h2d} in{together}"


def _print_step(profile: Profile) -> None:
    peak_bytes = memory_table(profile)["without_bytes"].max()
    device, how = profile.device, profile.times.value
    rounds = f", {profile.timed_steps} steps" if profile.times is Provenance.MEASURED else ""
    print_table(
        f"One step of {_workload(profile)}",
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
            ("link", _link(profile.link), profile.link.provenance.value),
        ),
        right=("value",),
    )


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


def _certificate_rows(plan: Plan) -> list[tuple[str, str, str]]:
    about = plan.certificate
    share = plan.budget_bytes / max(1, about.peak_without_bytes)
    pool = size_text(plan.host_pool_bytes)
    if plan.host_budget_bytes is not None:
        pool += f" of {size_text(plan.host_budget_bytes)}"
    bound = f"bound: {about.bound_source.value}"
    solver = "none" if about.proof is Proof.NOT_NEEDED else about.solver
    return [
        ("budget", f"{size_text(plan.budget_bytes)} ({share:.1%} of the peak)", "given"),
        ("peak without the plan", size_text(about.peak_without_bytes), plan.times.value),
        ("peak with the plan", size_text(about.peak_bytes), "simulated"),
        ("swaps", str(len(plan.swaps)), ""),
        ("moved to the host per step", size_text(about.d2h_bytes), "simulated"),
        ("moved back per step", size_text(about.h2d_bytes), "simulated"),
        ("host pool", pool, "simulated"),
        ("link", _link(plan.link), plan.link.provenance.value),
        ("step without the plan", time_text(about.compute_us), plan.times.value),
        ("step with the plan", time_text(about.simulated_step_us), "simulated"),
        ("stall", time_text(about.simulated_stall_us), "simulated"),
        ("stall no plan can be below", time_text(about.bound_stall_us), bound),
        ("gap to the bound", f"{about.gap:.2%} of the step", "simulated over bound"),
        ("solver", solver, ""),
        ("solver's proof for its model", about.proof.value, ""),
        ("planning took", f"{about.solve_seconds:.1f} s", "measured"),
    ]


def _print_swaps(plan: Plan, top: int) -> None:
    table = swaps_table(plan).nlargest(top, "size_bytes").sort_index()
    print_table(
        f"Largest swaps ({len(table)} of {len(plan.swaps)}; slack in ms, simulated: how long "
        "before compute asks for it a copy is over)",
        ("storage", "bytes", "swap-out", "release", "slack", "swap-in", "await", "slack "),
        [
            (
                row.name,
                size_text(row.size_bytes),
                row.swap_out,
                row.release,
                f"{row.out_slack_us / 1e3:.1f}",
                row.swap_in,
                row._7,
                f"{row.in_slack_us / 1e3:.1f}",
            )
            for row in table.itertuples()
        ],
        right=("bytes", "slack", "slack "),
    )
