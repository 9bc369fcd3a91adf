"""The hardest plan a runtime can be given: every gap of every storage is spent on the host.

Copies are waited for at both ends, so it is slow, and it says nothing of planning; but it moves
whatever can be moved, at every place where that is allowed.
"""

from planner.plan.device_memory import planned_bytes, slot_memory
from planner.plan.host_memory import HostNeed, host_offsets, pool_bytes
from planner.plan.plan import (
    Boundary,
    BoundSource,
    Certificate,
    Plan,
    PlannedSlot,
    PlannedStorage,
    Proof,
    Swap,
)
from planner.plan.simulate import simulate_plan
from planner.problem.gaps import Gap, candidate_gaps
from profiles.schema.files import CREATED_BY
from profiles.schema.link import CopyMethod
from profiles.schema.profile import Profile


def everything_away(
    profile: Profile, *, min_size_bytes: int = 1, boundary: Boundary = Boundary.RESIDENT
) -> Plan:
    """Returns the plan that swaps every gap from end to end; its budget is what that needs."""
    gaps = candidate_gaps(profile, min_size_bytes, boundary)
    gaps = tuple(sorted(gaps, key=lambda gap: (gap.first_slot, gap.storage)))
    draft = _plan(profile, gaps, boundary, budget_bytes=profile.peak_bytes)
    stall_us = simulate_plan(draft).total_stall_us
    peak_bytes = max(planned_bytes(draft))
    certificate = draft.certificate.model_copy(
        update={"peak_bytes": peak_bytes, "simulated_stall_us": stall_us}
    )
    plan = draft.model_copy(update={"certificate": certificate, "budget_bytes": peak_bytes})
    return Plan.model_validate_json(plan.model_dump_json())


def _plan(profile: Profile, gaps: tuple[Gap, ...], boundary: Boundary, budget_bytes: int) -> Plan:
    """A plan whose certificate is not filled in yet, so not validated either."""
    count = len(profile.slots)
    needs = [HostNeed(gap.first_slot, gap.next_use_slot % count, gap.size_bytes) for gap in gaps]
    offsets = host_offsets(needs)
    memory = slot_memory(profile)
    return Plan.model_construct(
        format=Plan.FORMAT,
        version=Plan.VERSION,
        created_by=CREATED_BY,
        profile_fingerprint=profile.fingerprint(),
        model_fingerprint=profile.model_fingerprint,
        workload=profile.workload,
        times=profile.times,
        device=profile.device,
        link=profile.link,
        boundary=boundary,
        min_size_bytes=1,
        budget_bytes=budget_bytes,
        host_budget_bytes=None,
        host_pool_bytes=pool_bytes(needs, offsets),
        storages=_storages(profile),
        slots=tuple(
            PlannedSlot(
                anchor=slot.anchor,
                shows=slot.shows,
                duration_us=slot.duration_us,
                resident_bytes=bytes_and_op.resident_bytes,
                peak_op=bytes_and_op.peak_op,
            )
            for slot, bytes_and_op in zip(profile.slots, memory, strict=True)
        ),
        swaps=tuple(
            Swap(
                storage=gap.storage,
                swap_out_slot=gap.first_slot,
                release_slot=gap.first_slot,
                swap_in_slot=gap.next_use_slot % count,
                await_slot=gap.next_use_slot % count,
                host_offset_bytes=offset,
                clean=False,
                engine=CopyMethod.DMA,
            )
            for gap, offset in zip(gaps, offsets, strict=True)
        ),
        certificate=_empty_certificate(profile, sum(gap.size_bytes for gap in gaps)),
        model=profile.model,
    )


def _storages(profile: Profile) -> tuple[PlannedStorage, ...]:
    return tuple(
        PlannedStorage(
            id=storage.id,
            name=storage.name,
            kind=storage.kind,
            size_bytes=storage.size_bytes,
            module=storage.module,
            is_mask=storage.is_mask,
        )
        for storage in profile.storages
    )


def _empty_certificate(profile: Profile, moved_bytes: int) -> Certificate:
    return Certificate(
        peak_without_bytes=profile.peak_bytes,
        peak_bytes=0,
        d2h_bytes=moved_bytes,
        h2d_bytes=moved_bytes,
        compute_us=profile.step_us,
        simulated_stall_us=0.0,
        loose_bound_stall_us=0.0,
        bound_stall_us=0.0,
        bound_source=BoundSource.TRIVIAL,
        solver="none",
        proof=Proof.FEASIBLE,
        solve_seconds=0.0,
    )
