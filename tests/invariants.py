"""What must be true of every plan, checked from the profile and without the planner's verifier.

`check_plan(plan, profile)` walks the lowered schedule op by op with the profile's own storages,
re-derives the certificate, and simulates the plan again with `tests.reference`.
"""

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from functools import partial

import pytest

from planner.plan import Plan, Proof, Swap
from planner.schedule import Action, ActionKind, lower
from planner.simulate import simulate_plan
from profiles.profile import Profile, Storage
from tests.reference import Trip, alive_across, alive_at, resident_bytes, simulate

ROUNDING = 1e-6
"""Relative; what sums of floats and the solver's own tolerances may differ by."""
close = partial(pytest.approx, rel=ROUNDING, abs=ROUNDING)


class State(Enum):
    """Where the bytes of a storage are; only RESIDENT may be used."""

    RESIDENT = auto()
    LEAVING = auto()
    ABSENT = auto()
    COMING = auto()


# What an action needs the storage to be, and makes it.
MOVES = {
    ActionKind.SWAP_OUT: (State.RESIDENT, State.LEAVING),
    ActionKind.RELEASE: (State.LEAVING, State.ABSENT),
    ActionKind.SWAP_IN: (State.ABSENT, State.COMING),
    ActionKind.AWAIT: (State.COMING, State.RESIDENT),
}


def check_plan(plan: Plan, profile: Profile) -> None:
    """Asserts every invariant of a plan made from a profile."""
    _check_slots(plan, profile)
    _check_walk(plan, profile)
    _check_gaps(plan, profile)
    _check_host_pool(plan)
    _check_certificate(plan, profile)
    _check_simulation(plan, profile)


def _check_slots(plan: Plan, profile: Profile) -> None:
    assert plan.profile_fingerprint == profile.fingerprint()
    assert plan.model_fingerprint == profile.model_fingerprint
    assert len(plan.slots) == len(profile.slots)
    for t, (planned, recorded) in enumerate(zip(plan.slots, profile.slots, strict=True)):
        assert (planned.anchor, planned.shows) == (recorded.anchor, recorded.shows)
        assert planned.duration_us == recorded.duration_us
        assert planned.resident_bytes == resident_bytes(profile, t), f"slot {t}"
    for storage in plan.storages:
        recorded_storage = profile.storages[storage.id]
        for field in ("name", "kind", "size_bytes"):
            assert getattr(storage, field) == getattr(recorded_storage, field)
    needed = {swap.storage for swap in plan.swaps} | {slot.shows for slot in plan.slots} - {None}
    assert needed <= {storage.id for storage in plan.storages}


def _check_walk(plan: Plan, profile: Profile) -> None:
    """Program order alone: what is resident, what is used, what the budget sees."""
    state = {s.id: State.RESIDENT for s in profile.storages}
    schedule = lower(plan)
    assert len(schedule) == len(profile.slots)
    for t, actions in enumerate(schedule):
        _check_order(actions)
        alive = {s.id for s in alive_across(profile, t)}
        for action in actions:
            needed, made = MOVES[action.kind]
            assert action.storage in alive, f"slot {t}: {action} is not alive"
            assert state[action.storage] is needed, f"slot {t}: {action} when {state}"
            state[action.storage] = made
        spare_bytes = plan.budget_bytes - profile.slots[t].overhead_bytes
        _check_bytes(spare_bytes, alive_across(profile, t), state, f"anchor {t}")
        for k, op in enumerate(profile.ops):
            if op.slot == t:
                _check_bytes(spare_bytes, alive_at(profile, k), state, f"op {k}")
                used = [s for s in profile.storages if any(use.op == k for use in s.uses)]
                assert all(state[s.id] is State.RESIDENT for s in used), f"op {k} uses {state}"
    assert set(state.values()) <= {State.RESIDENT}, "something is away when the step ends"


def _check_order(actions: Sequence[Action]) -> None:
    kinds = [list(MOVES).index(action.kind) for action in actions]
    assert kinds == sorted(kinds), actions


def _check_bytes(
    spare_bytes: int, alive: Sequence[Storage], state: Mapping[int, State], where: str
) -> None:
    held = sum(s.size_bytes for s in alive if state[s.id] is not State.ABSENT)
    assert held <= spare_bytes, f"{where}: storages hold {held} bytes of {spare_bytes}"


def _check_gaps(plan: Plan, profile: Profile) -> None:
    for swap in plan.swaps:
        storage = profile.storages[swap.storage]
        assert storage.left_out is None
        assert storage.shown_at is not None
        assert storage.shown_at <= swap.swap_out_slot
        assert swap.swap_out_slot <= swap.release_slot < swap.swap_in_slot <= swap.await_slot
        assert swap.await_slot < len(profile.slots)
        idle = range(swap.swap_out_slot, swap.await_slot)
        assert not [use for use in storage.uses if profile.ops[use.op].slot in idle]
    outs = [swap.swap_out_slot for swap in plan.swaps]
    assert outs == sorted(outs), "swaps stand in order of swap-out"


def _check_host_pool(plan: Plan) -> None:
    places: list[tuple[Swap, int, int]] = []
    for swap in plan.swaps:
        start = swap.host_offset_bytes
        end = start + plan.storage(swap.storage).size_bytes
        for other, other_start, other_end in places:
            # A swap-out runs before an await at the same anchor, hence `<=`.
            together = (
                other.swap_out_slot <= swap.await_slot and swap.swap_out_slot <= other.await_slot
            )
            assert not (together and start < other_end and other_start < end), (swap, other)
        places.append((swap, start, end))
    assert plan.host_pool_bytes == max((end for _, _, end in places), default=0)
    if plan.host_budget_bytes is not None:
        assert plan.host_pool_bytes <= plan.host_budget_bytes


def _check_certificate(plan: Plan, profile: Profile) -> None:
    found = plan.certificate
    sizes = [profile.storages[swap.storage].size_bytes for swap in plan.swaps]
    without = [resident_bytes(profile, t) for t in range(len(profile.slots))]
    held = list(without)
    for swap, size in zip(plan.swaps, sizes, strict=True):
        for t in range(swap.release_slot, swap.swap_in_slot):
            held[t] -= size
    assert found.peak_without_bytes == max(without)
    assert found.peak_bytes == max(held) <= plan.budget_bytes
    assert found.d2h_bytes == found.h2d_bytes == sum(sizes)
    assert found.compute_us == close(profile.step_us)
    assert found.bound_stall_us <= found.simulated_stall_us + ROUNDING * (1 + profile.step_us)
    assert found.gap >= 0
    fits = max(without) <= plan.budget_bytes
    assert (found.proof is Proof.NOT_NEEDED) == fits
    assert (not plan.swaps) == fits


def trips_of(plan: Plan) -> list[Trip]:
    """The plan's swaps, in its order."""
    return [
        Trip(s.storage, s.swap_out_slot, s.release_slot, s.swap_in_slot, s.await_slot)
        for s in plan.swaps
    ]


def _check_simulation(plan: Plan, profile: Profile) -> None:
    sizes = {s.id: s.size_bytes for s in profile.storages}
    slots_us = [slot.duration_us for slot in profile.slots]
    mine = simulate(slots_us, sizes, trips_of(plan), plan.link)
    theirs = simulate_plan(plan)
    assert list(theirs.stall_us) == close(list(mine.stall_us))
    assert [tuple(copy) for copy in theirs.d2h] == [close(tuple(c)) for c in mine.d2h]
    assert [tuple(copy) for copy in theirs.h2d] == [close(tuple(c)) for c in mine.h2d]
    stall_us = sum(mine.stall_us)
    assert theirs.total_stall_us == close(stall_us)
    assert theirs.step_us == close(profile.step_us + stall_us)
    assert plan.certificate.simulated_stall_us == close(stall_us)
