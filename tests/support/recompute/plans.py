"""What must be true of a plan that drops storages: it is a plan of swaps for the step it rebuilds.

The rebuilds are replayed over symbols, and the plan, with its storages numbered as those of the
rewritten step, passes every check of `tests.support.planning.invariants`.
"""

from collections.abc import Sequence

import pytest

from planner.build_plan import planned_storages
from planner.plan.plan import Plan, Proof, Swap
from planner.plan.verify import derived_figures, first_fault
from planner.recompute.recipes import StepEffects
from planner.recompute.rewriting import RecomputedStep, rebuildings, recomputed
from profiles.schema.memory import slot_memory
from profiles.schema.profile import Profile
from tests.support.planning.invariants import ROUNDING, check_plan
from tests.support.recompute.drops import every_gap
from tests.support.recompute.replayed import check_replay


def check_recompute_plan(plan: Plan, profile: Profile) -> None:
    """Asserts every invariant of a plan made from a profile."""
    assert first_fault(plan) is None
    assert plan.profile_fingerprint == profile.fingerprint()
    check_replay(profile, plan.rebuilds)
    step = rewritten(plan, profile)
    about = plan.certificate
    assert about.peak_without_bytes == max(slot.resident_bytes for slot in slot_memory(profile))
    assert about.compute_us == pytest.approx(profile.step_us)
    assert about.recompute_us == pytest.approx(sum(step.recompute_us))
    assert [slot.recompute_us for slot in plan.slots] == pytest.approx(list(step.recompute_us))
    slack_us = ROUNDING * (1 + profile.step_us)
    assert about.bound_beyond_us <= about.recompute_us + about.simulated_stall_us + slack_us
    check_plan(swaps_alone(plan, step), step.profile)


def rewritten(plan: Plan, profile: Profile) -> RecomputedStep:
    """The step that a plan rebuilds."""
    effects = StepEffects(profile)
    drops = [drop for rebuild in plan.rebuilds for drop in rebuild.drops]
    gaps = [
        gap
        for gap in every_gap(profile, plan.boundary).whole_gaps
        for drop in drops
        if gap.storage == drop.storage and gap.first_slot <= drop.slot < gap.next_use_slot
    ]
    found = rebuildings(effects, gaps)
    assert found is not None
    step = recomputed(effects, found)
    assert step.rebuilds == plan.rebuilds
    return step


def swaps_alone(plan: Plan, step: RecomputedStep) -> Plan:
    """The plan as one of swaps alone, for the step as it is rewritten."""
    profile = step.profile
    swaps = tuple(swap.model_copy(update={"storage": _life(swap, step)}) for swap in plan.swaps)
    slots = tuple(
        slot.model_copy(update={"recompute_us": 0.0, "without_bytes": None}) for slot in plan.slots
    )
    about = plan.certificate
    alone = plan.model_copy(
        update={
            "profile_fingerprint": profile.fingerprint(),
            "storages": planned_storages(profile, swaps),
            "slots": slots,
            "swaps": swaps,
            "rebuilds": (),
        }
    )
    # What has been kept of the storages it had.
    alone = Plan.model_construct(**{name: getattr(alone, name) for name in Plan.model_fields})
    bounds_us = {
        name: max(0.0, getattr(about, name) - about.recompute_us)
        for name in ("bound_beyond_us", "loose_bound_beyond_us")
    }
    proof = {} if plan.swaps else {"proof": Proof.NOT_NEEDED}
    figures = derived_figures(alone)
    for name in ("peak_bytes", "d2h_bytes", "h2d_bytes"):
        assert figures[name] == getattr(about, name), name
    assert figures["simulated_stall_us"] == pytest.approx(about.simulated_stall_us)
    certificate = about.model_copy(update=figures | bounds_us | proof)
    return alone.model_copy(update={"certificate": certificate})


def _life(swap: Swap, step: RecomputedStep) -> int:
    """The storage of the rewritten step that a swap moves."""
    (life,) = (
        s.id
        for origin, s in zip(step.origins, step.profile.storages, strict=True)
        if origin == swap.storage and s.allocated_slot <= swap.swap_out_slot <= s.released_slot
    )
    return life


def moved(plan: Plan) -> tuple[Sequence[str], Sequence[str]]:
    """The names of what is swapped and of what is dropped."""
    swapped = [plan.storage(swap.storage).name for swap in plan.swaps]
    dropped = [
        plan.storage(drop.storage).name for rebuild in plan.rebuilds for drop in rebuild.drops
    ]
    return swapped, dropped
