"""Writes a timing down as a plan: host offsets, what the runtime must know, the certificate."""

from dataclasses import dataclass
from typing import Any

from planner.ilp.deadline import SolverName
from planner.plan.plan import (
    BoundSource,
    Certificate,
    OpWorkspace,
    Plan,
    PlannedSlot,
    PlannedStorage,
    Proof,
    Rebuild,
    Swap,
    Without,
)
from planner.plan.verify import derived_figures, verified
from planner.problem.gaps import Gap
from planner.problem.problem import Problem
from planner.problem.timed_swap import TimedSwap, swap_offsets
from planner.recompute.recipes import StepEffects
from planner.recompute.rewriting import Rebuilding, RecomputedStep, recomputed
from planner.search.candidate import Candidate
from profiles.schema.files import CREATED_BY
from profiles.schema.memory import largest_workspaces, slot_memory
from profiles.schema.profile import Profile


@dataclass(frozen=True)
class Solution:
    """What solving found.

    Attributes:
        problem: The step it is for, as the recipes rewrite it.
        chosen: The gaps the swaps were chosen from.
        swaps: What moves when.
        loose_bound_beyond_us: No plan can wait and recompute less in all, by the relaxation.
        bound_beyond_us: No plan can.
        bound_source: How that is known.
        proof: What the solver proved about its model.
        stall_us: What compute waits, by the scheduler's clock.
        found: What is dropped, and the recipes that rebuild it.
        candidate: What the scheduler made the swaps of; None if there are none.
    """

    problem: Problem
    chosen: frozenset[int]
    swaps: tuple[TimedSwap, ...]
    loose_bound_beyond_us: float
    bound_beyond_us: float
    bound_source: BoundSource
    proof: Proof
    stall_us: float = 0.0
    found: tuple[Rebuilding, ...] = ()
    candidate: Candidate | None = None

    @property
    def dropped(self) -> frozenset[Gap]:
        """The gaps in which storages are dropped."""
        return frozenset(gap for rebuilding in self.found for gap in rebuilding.gaps)


def build_plan(
    profile: Profile,
    solution: Solution,
    *,
    solver: SolverName,
    seconds: float,
    without: Without = Without.RECOMPUTE,
) -> Plan:
    """Builds the plan and verifies it."""
    problem = solution.problem
    step = recomputed(StepEffects(profile), solution.found)
    swaps = planned_swaps(problem, solution)
    fields: dict[str, Any] = {
        "format": Plan.FORMAT,
        "version": Plan.VERSION,
        "created_by": CREATED_BY,
        "profile_fingerprint": profile.fingerprint(),
        "model_fingerprint": profile.model_fingerprint,
        "workload": profile.workload,
        "times": profile.times,
        "device": profile.device,
        "link": problem.link,
        "boundary": problem.boundary,
        "min_size_bytes": problem.min_size_bytes,
        "budget_bytes": problem.budget_bytes,
        "host_budget_bytes": problem.host_budget_bytes,
        "storages": planned_storages(profile, swaps, step.rebuilds),
        "slots": planned_slots(step, profile),
        "swaps": swaps,
        "rebuilds": step.rebuilds,
        "model": profile.model,
        "without": without,
        "without_checkpointing": profile.without_checkpointing,
        "workspaces": op_workspaces(profile),
    }
    unproven = Plan.model_construct(**fields)
    certificate = Certificate(
        **derived_figures(unproven),
        loose_bound_beyond_us=solution.loose_bound_beyond_us,
        bound_beyond_us=solution.bound_beyond_us,
        bound_source=solution.bound_source,
        solver=solver.value,
        proof=solution.proof,
        solve_seconds=seconds,
    )
    pool_bytes = unproven.used_host_bytes
    return verified(Plan(**fields, host_pool_bytes=pool_bytes, certificate=certificate))


def op_workspaces(profile: Profile) -> tuple[OpWorkspace, ...]:
    """Returns what ops take while they run, by name."""
    calls = ((op.name, op.workspace_bytes or 0) for op in profile.ops)
    largest = sorted(largest_workspaces(calls).items())
    return tuple(OpWorkspace(name=name, size_bytes=size_bytes) for name, size_bytes in largest)


def planned_swaps(problem: Problem, solution: Solution) -> tuple[Swap, ...]:
    """Returns a solution's swaps as the plan file has them, each with its place on the host."""
    count = problem.slot_count
    # Swaps that begin in what counts as the next step begin in every step.
    swaps = sorted(solution.swaps, key=lambda swap: swap.swap_out_slot % count)
    offsets = swap_offsets(problem, solution.chosen, swaps)
    return tuple(
        Swap(
            storage=swap.storage,
            swap_out_slot=swap.swap_out_slot % count,
            release_slot=swap.release_slot % count,
            swap_in_slot=swap.swap_in_slot % count,
            await_slot=swap.await_slot % count,
            host_offset_bytes=offset,
            clean=swap.clean,
            engine=problem.engine_of(swap.storage),
        )
        for swap, offset in zip(swaps, offsets, strict=True)
    )


def planned_storages(
    profile: Profile, swaps: tuple[Swap, ...], rebuilds: tuple[Rebuild, ...] = ()
) -> tuple[PlannedStorage, ...]:
    """Returns the storages that move or that an anchor shows."""
    known = {swap.storage for swap in swaps} | {slot.shows for slot in profile.slots}
    known |= {drop.storage for rebuild in rebuilds for drop in rebuild.drops}
    return tuple(
        PlannedStorage(**{name: getattr(storage, name) for name in PlannedStorage.model_fields})
        for storage in profile.storages
        if storage.id in known
    )


def planned_slots(step: RecomputedStep, recorded: Profile) -> tuple[PlannedSlot, ...]:
    """Returns the slots of a step, with what each needs when nothing moves.

    Args:
        step: The step, with what is dropped and rebuilt.
        recorded: The step as it was recorded.
    """
    profile = step.profile
    memories = slot_memory(profile)
    unplanned = slot_memory(recorded) if step.rebuilds else memories
    return tuple(
        PlannedSlot(
            anchor=slot.anchor,
            shows=slot.shows,
            duration_us=slot.duration_us,
            resident_bytes=memory.resident_bytes,
            peak_op=memory.peak_op,
            recompute_us=us,
            without_bytes=_other(without.resident_bytes, memory.resident_bytes),
        )
        for slot, memory, without, us in zip(
            profile.slots, memories, unplanned, step.recompute_us, strict=True
        )
    )


def _other(size_bytes: int, usual_bytes: int) -> int | None:
    return None if size_bytes == usual_bytes else size_bytes
