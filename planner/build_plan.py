"""Writes a timing down as a plan: host offsets, what the runtime must know, the certificate."""

from dataclasses import dataclass

from planner.ilp.deadline import SolverName
from planner.plan.device_memory import Absence, resident_bytes, slot_memory
from planner.plan.plan import (
    BoundSource,
    Certificate,
    Plan,
    PlannedSlot,
    PlannedStorage,
    Proof,
    Swap,
)
from planner.plan.schedule import lower_swaps
from planner.plan.simulate import simulate
from planner.problem.host_layout import swap_offsets
from planner.problem.problem import Problem
from planner.problem.timed_swap import TimedSwap
from profiles.schema.files import CREATED_BY
from profiles.schema.link import CopyMethod
from profiles.schema.profile import Profile


@dataclass(frozen=True)
class Solution:
    """What solving found.

    Attributes:
        chosen: The gaps the trips were chosen from.
        trips: What moves when.
        loose_bound_stall_us: No plan can wait less, by the relaxation.
        bound_stall_us: No plan can wait less.
        bound_source: How that is known.
        proof: What the solver proved about its model.
    """

    chosen: frozenset[int]
    trips: tuple[TimedSwap, ...]
    loose_bound_stall_us: float
    bound_stall_us: float
    bound_source: BoundSource
    proof: Proof


def build_plan(
    profile: Profile, problem: Problem, solution: Solution, *, solver: SolverName, seconds: float
) -> Plan:
    """Builds the plan; building it verifies it."""
    swaps = _swaps(problem, solution)
    return Plan(
        format=Plan.FORMAT,
        version=Plan.VERSION,
        created_by=CREATED_BY,
        profile_fingerprint=profile.fingerprint(),
        model_fingerprint=profile.model_fingerprint,
        workload=profile.workload,
        times=profile.times,
        device=profile.device,
        link=problem.link,
        boundary=problem.boundary,
        min_size_bytes=problem.min_size_bytes,
        budget_bytes=problem.budget_bytes,
        host_budget_bytes=problem.host_budget_bytes,
        host_pool_bytes=_host_pool_bytes(problem, swaps),
        storages=_storages(profile, swaps),
        slots=_slots(profile),
        swaps=swaps,
        certificate=_certificate(problem, solution, swaps, solver=solver, seconds=seconds),
        model=profile.model,
    )


def _swaps(problem: Problem, solution: Solution) -> tuple[Swap, ...]:
    count = problem.slot_count
    # Trips that begin in what counts as the next step begin in every step.
    trips = sorted(solution.trips, key=lambda trip: trip.swap_out_slot % count)
    offsets = swap_offsets(problem, solution.chosen, trips)
    return tuple(
        Swap(
            storage=trip.storage,
            swap_out_slot=trip.swap_out_slot % count,
            release_slot=trip.release_slot % count,
            swap_in_slot=trip.swap_in_slot % count,
            await_slot=trip.await_slot % count,
            host_offset_bytes=offset,
            clean=trip.clean,
            engine=problem.engines.get(trip.storage, CopyMethod.DMA),
        )
        for trip, offset in zip(trips, offsets, strict=True)
    )


def _host_pool_bytes(problem: Problem, swaps: tuple[Swap, ...]) -> int:
    sizes_bytes = {gap.storage: gap.size_bytes for gap in problem.gaps}
    ends = (
        swap.host_offset_bytes + swap.host_bytes_of(sizes_bytes[swap.storage]) for swap in swaps
    )
    return max(ends, default=0)


def _storages(profile: Profile, swaps: tuple[Swap, ...]) -> tuple[PlannedStorage, ...]:
    moved = {swap.storage for swap in swaps}
    shown = {slot.shows for slot in profile.slots if slot.shows is not None}
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
        if storage.id in moved | shown
    )


def _slots(profile: Profile) -> tuple[PlannedSlot, ...]:
    return tuple(
        PlannedSlot(
            anchor=slot.anchor,
            shows=slot.shows,
            duration_us=slot.duration_us,
            resident_bytes=memory.resident_bytes,
            peak_op=memory.peak_op,
        )
        for slot, memory in zip(profile.slots, slot_memory(profile), strict=True)
    )


def _certificate(
    problem: Problem,
    solution: Solution,
    swaps: tuple[Swap, ...],
    *,
    solver: SolverName,
    seconds: float,
) -> Certificate:
    sizes_bytes = {gap.storage: gap.size_bytes for gap in problem.gaps}
    held_bytes = resident_bytes(
        problem.resident_bytes,
        (
            Absence(swap.release_slot, swap.swap_in_slot, sizes_bytes[swap.storage])
            for swap in swaps
        ),
    )
    timeline = simulate(
        durations_us=problem.durations_us,
        sizes_bytes=sizes_bytes,
        link=problem.link,
        schedule=lower_swaps(swaps, problem.slot_count),
        engines=problem.engines,
    )
    return Certificate(
        peak_without_bytes=max(problem.resident_bytes),
        peak_bytes=max(held_bytes),
        d2h_bytes=sum(s.host_bytes_of(sizes_bytes[s.storage]) for s in swaps if not s.clean),
        h2d_bytes=sum(s.host_bytes_of(sizes_bytes[s.storage]) for s in swaps),
        compute_us=problem.compute_us,
        simulated_stall_us=timeline.total_stall_us,
        loose_bound_stall_us=solution.loose_bound_stall_us,
        bound_stall_us=solution.bound_stall_us,
        bound_source=solution.bound_source,
        solver=solver.value,
        proof=solution.proof,
        solve_seconds=seconds,
    )
