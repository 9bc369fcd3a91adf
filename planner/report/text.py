"""Plans and profiles in words, for people: on the terminal and on a page."""

from collections import Counter

from planner.plan.plan import BoundSource, Plan, PlannedStorage, Proof, Rebuild, Without
from profiles.schema.link import NOTHING_SHARED, CopyMethod, Figure, Sharing
from profiles.schema.profile import PACK, UNPACK, Link, Profile
from profiles.schema.units import rate_text, size_text, time_text

SECOND_HAND = "*"
"""Marks a figure that its source repeats from another."""
UNKNOWN = "?"
LOOSE = f"bound: {BoundSource.RELAXATION.value}, bytes that flow"
CHECKPOINTING = "the model's own checkpointing"
OFFERED = "The bound is over plans that rebuild a storage once a gap, by the recipe it has."
"""What the bound of a plan that may recompute leaves out."""


def workload_text(source: Profile | Plan) -> str:
    """Says which training step this is."""
    settings = "".join(f" {key}={value}" for key, value in source.workload.settings)
    return f"{source.workload.reference or 'a step recorded from Python'}{settings}"


def checkpointing_text(source: Profile | Plan) -> str:
    """Says what becomes of activation checkpointing that the model may have itself."""
    return "switched off" if source.without_checkpointing else "as it is"


def link_text(link: Link) -> str:
    """Says what a link carries."""
    d2h, h2d = rate_text(link.d2h_bytes_per_us), rate_text(link.h2d_bytes_per_us)
    both = link.both_bytes_per_us
    together = f", {rate_text(both)} together" if both is not None else ""
    return f"{link.name}, {d2h} out, {h2d} in{together}"


def figure_text(figure: Figure | None) -> str:
    """Says what rate was published."""
    if figure is None:
        return UNKNOWN
    return rate_text(figure.bytes_per_us) + ("" if figure.verified else SECOND_HAND)


def sharing_text(sharing: Sharing | None) -> str:
    """Says what workers share of a link."""
    if sharing is None:
        return UNKNOWN
    if sharing == NOTHING_SHARED:
        return "nothing"
    uplink = (
        f"{sharing.gpus_per_uplink} behind a switch"
        if sharing.gpus_per_uplink > 1
        else "a link each"
    )
    memory = f", {sharing.gpus_per_memory} to a socket"
    rate = f", memory {figure_text(sharing.memory)}" if sharing.memory else ""
    return uplink + memory + rate


def swaps_text(plan: Plan) -> str:
    """Says how many swaps there are, and how many of them are of a special kind."""
    clean = sum(swap.clean for swap in plan.swaps)
    around = sum(swap.wraps for swap in plan.swaps)
    of_them = [f"{clean} clean"] if clean else []
    of_them += [f"{around} round the step boundary"] if around else []
    of_them += [
        f"{count} by {engine.value.replace('_', ' ')}"
        for engine, count in Counter(swap.engine for swap in plan.swaps).items()
        if engine is not CopyMethod.DMA
    ]
    return f"{len(plan.swaps)}" + (f" ({', '.join(of_them)})" if of_them else "")


def storage_text(storage: PlannedStorage) -> str:
    """Names a storage by the module it was first seen in, then as replay finds it."""
    return f"{storage.module} ({storage.name})" if storage.module else storage.name


def anchor_text(plan: Plan, slot: int) -> str:
    """Names an anchor by its key, after the module whose tensor it packs or unpacks, if it does."""
    key = plan.slots[slot].anchor
    name = PACK + key.removeprefix(UNPACK) if key.startswith(UNPACK) else key
    # All other keys have a module's name in them.
    packed = (s.module for s in plan.storages if s.name == name and name.startswith(PACK))
    module = next(packed, "")
    return f"{module} ({key})" if module else key


def ops_text(rebuild: Rebuild) -> str:
    """Says which operators are run again, in order of their first, and how many of each."""
    counts = Counter(_operator(op.name) for op in rebuild.ops)
    return ", ".join(f"{count} {name}" if count > 1 else name for name, count in counts.items())


def _operator(name: str) -> str:
    """`aten.relu_.default` is `relu_`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 2 else name


def rebuilds_text(plan: Plan) -> str:
    """Says how much is dropped, and how much is run again for it."""
    drops = [drop for rebuild in plan.rebuilds for drop in rebuild.drops]
    sizes_bytes = sum(plan.sizes_bytes[drop.storage] for drop in drops)
    ops = sum(len(rebuild.ops) for rebuild in plan.rebuilds)
    return f"{len(drops)} ({size_text(sizes_bytes)}, by {ops} ops)"


def step_text(plan: Plan) -> str:
    """Says what a step takes under a plan, and what no plan takes less than beyond its compute."""
    about = plan.certificate
    parts = {
        "compute": about.compute_us,
        "recompute": about.recompute_us,
        "stall": about.simulated_stall_us,
    }
    texts = [f"{time_text(us)} {what}" for what, us in parts.items()]
    beyond = f"{time_text(about.beyond_us)}, at least {time_text(about.bound_beyond_us)}"
    return (
        f"Step {time_text(about.simulated_step_us)} (simulated): {' + '.join(texts)}; "
        f"recompute + stall {beyond} (bound)."
    )


def moves_nothing(plan: Plan) -> bool:
    """Whether a plan leaves the step as it is."""
    return not plan.swaps and not plan.rebuilds


def bound_name(plan: Plan) -> str:
    """Names what a plan's bound is on."""
    is_on_stall = plan.without is Without.RECOMPUTE
    return "stall no plan can be below" if is_on_stall else "recompute + stall, at least"


def certificate_rows(plan: Plan) -> list[tuple[str, str, str]]:
    """Returns how good a plan is, one row per figure: what it is of, its value as people read it,
    and where that comes from (given, measured, estimated, simulated, nominal or a bound)."""
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
        ("may not use", plan.without.value, "given"),
        *(
            [(CHECKPOINTING, checkpointing_text(plan), "given")]
            if plan.without_checkpointing
            else ()
        ),
        ("swaps", swaps_text(plan), ""),
        *([("dropped and rebuilt", rebuilds_text(plan), "")] if plan.rebuilds else ()),
        ("moved to the host per step", size_text(about.d2h_bytes), "simulated"),
        ("moved back per step", size_text(about.h2d_bytes), "simulated"),
        ("host pool", pool, "simulated"),
        ("link", link_text(plan.link), plan.link.provenance.value),
        ("step without the plan", time_text(about.compute_us), plan.times.value),
        ("step with the plan", time_text(about.simulated_step_us), "simulated"),
        *(
            [("recompute", time_text(about.recompute_us), f"{plan.times.value}, op by op")]
            if plan.rebuilds
            else ()
        ),
        ("stall", time_text(about.simulated_stall_us), "simulated"),
        (bound_name(plan), time_text(about.bound_beyond_us), bound),
        ("loose bound", time_text(about.loose_bound_beyond_us), LOOSE),
        ("gap to the bound", f"{about.optimality_gap:.2%} of the step", "simulated over bound"),
        ("solver", solver, ""),
        ("solver's proof for its model", about.proof.value, ""),
        ("planning took", f"{about.solve_seconds:.1f} s", "measured"),
    ]
