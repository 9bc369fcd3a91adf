"""What must be true of every plan, checked from the profile and without the planner's verifier.

`check_plan(plan, profile)` walks the lowered schedule op by op with the profile's own storages,
re-derives the certificate, and simulates the plan again with `tests.support.planning.reference`.
"""

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from functools import partial
from itertools import pairwise

import pytest

from planner.plan.plan import Boundary, BoundSource, Plan, Proof, Swap
from planner.plan.schedule import Action, ActionKind, lower
from planner.plan.simulate import simulate_plan
from profiles.schema.profile import Access, Profile, Storage
from tests.support.planning.oracle import goes_on
from tests.support.planning.reference import (
    BareSwap,
    alive_across,
    alive_at,
    resident_bytes,
    simulate,
)

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
    """Program order alone: what is resident, what is used, what the budget sees.

    Two steps: the first one begins with everything resident, the second one as steps repeat.
    """
    walk = _Walk(plan, profile)
    schedule = lower(plan)
    assert len(schedule) == len(profile.slots)
    for boundary in (plan.swaps, ()):
        walk.begin(boundary)
        for t, actions in enumerate(schedule):
            _check_order(actions)
            walk.slot(t, actions)
    away = {storage for storage, state in walk.state.items() if state is not State.RESIDENT}
    wrapping = {swap.storage for swap in plan.swaps if swap.await_slot < swap.swap_out_slot}
    assert away <= wrapping, "something is away when the step ends"


class _Walk:
    """The storages of a step that repeats, and where their bytes are."""

    def __init__(self, plan: Plan, profile: Profile) -> None:
        self.plan = plan
        self.profile = profile
        self.count = len(profile.slots)
        self.state = {s.id: State.RESIDENT for s in profile.storages}
        self.host_copies: set[int] = set()

    def begin(self, wrapping: Sequence[Swap]) -> None:
        """Brings what wraps to where a step that repeats begins with it."""
        for swap in wrapping:
            if swap.await_slot < swap.swap_out_slot:
                self.state[swap.storage] = self.at_boundary(swap)
        lasting = {
            s.id
            for s in self.profile.storages
            if Access.WRITE not in [*(x.access for x in s.uses), *(x.access for x in s.touches)]
        }
        copied = {s.storage for s in self.plan.swaps if s.await_slot < s.swap_out_slot}
        shared = {s.storage for s in self.plan.swaps if s.clean}
        # What is copied in one step may serve the next: a second round will show.
        self.host_copies |= (copied | lasting | shared) if wrapping else set()

    def at_boundary(self, swap: Swap) -> State:
        slots = (swap.release_slot, swap.swap_in_slot, swap.await_slot)
        passed = [slot >= swap.swap_out_slot for slot in slots]
        order = (State.LEAVING, State.ABSENT, State.COMING, State.RESIDENT)
        return order[sum(passed)]

    def slot(self, t: int, actions: Sequence[Action]) -> None:
        profile = self.profile
        alive = {s.id for s in alive_across(profile, t)}
        for action in actions:
            assert action.storage in alive, f"slot {t}: {action} is not alive"
            self.act(t, action)
        self.touch(t)
        spare_bytes = self.plan.budget_bytes - profile.slots[t].overhead_bytes
        _check_bytes(spare_bytes, alive_across(profile, t), self.state, f"anchor {t}")
        for k, op in enumerate(profile.ops):
            if op.slot == t:
                _check_bytes(spare_bytes, alive_at(profile, k), self.state, f"op {k}")
                self.use(k)

    def act(self, t: int, action: Action) -> None:
        needed, made = MOVES[action.kind]
        storage, kind = action.storage, action.kind
        swap = next((s for s in self.plan.swaps if s.storage == storage and s.clean), None)
        clean = (
            swap is not None
            and kind is ActionKind.RELEASE
            and any(
                s.storage == storage and s.clean and s.release_slot == t for s in self.plan.swaps
            )
        )
        if clean:
            needed = State.RESIDENT
            assert storage in self.host_copies, f"slot {t}: {action}, but no copy is true"
        assert self.state[storage] is needed, f"slot {t}: {action} when {self.state}"
        self.state[storage] = made
        if kind is ActionKind.SWAP_OUT:
            self.host_copies.add(storage)

    def touch(self, t: int) -> None:
        for s in self.profile.storages:
            for touch in s.touches:
                if touch.slot == t:
                    assert self.state[s.id] is State.RESIDENT, f"anchor {t} needs {self.state}"
                    if touch.access is Access.WRITE:
                        self.host_copies.discard(s.id)

    def use(self, k: int) -> None:
        for s in self.profile.storages:
            for use in s.uses:
                if use.op == k:
                    assert self.state[s.id] is State.RESIDENT, f"op {k} uses {self.state}"
                    if use.access is Access.WRITE:
                        self.host_copies.discard(s.id)


def _check_order(actions: Sequence[Action]) -> None:
    kinds = [list(MOVES).index(action.kind) for action in actions]
    assert kinds == sorted(kinds), actions


def _check_bytes(
    spare_bytes: int, alive: Sequence[Storage], state: Mapping[int, State], where: str
) -> None:
    held = sum(s.size_bytes for s in alive if state[s.id] is not State.ABSENT)
    assert held <= spare_bytes, f"{where}: storages hold {held} bytes of {spare_bytes}"


def _check_gaps(plan: Plan, profile: Profile) -> None:
    count = len(profile.slots)
    for swap in plan.swaps:
        storage = profile.storages[swap.storage]
        assert storage.left_out is None
        assert storage.shown_at is not None
        assert storage.shown_at <= swap.swap_out_slot
        if swap.await_slot < swap.swap_out_slot:
            assert plan.boundary is Boundary.PERIODIC
            assert goes_on(storage)
        slots = (swap.release_slot, swap.swap_in_slot, swap.await_slot)
        release, swap_in, awaited = ((slot - swap.swap_out_slot) % count for slot in slots)
        assert 0 <= release < swap_in <= awaited
        assert release == 0 or not swap.clean
        idle = {(swap.swap_out_slot + k) % count for k in range(awaited)}
        assert not [use for use in storage.uses if profile.ops[use.op].slot in idle]
        assert not [touch for touch in storage.touches if touch.slot in idle]
    outs = [swap.swap_out_slot for swap in plan.swaps]
    assert outs == sorted(outs), "swaps stand in order of swap-out"


def _check_host_pool(plan: Plan) -> None:
    """Who holds which host bytes, slot by slot."""
    count = len(plan.slots)
    sizes = plan.sizes_bytes
    holders: list[dict[int, int]] = [{} for _ in plan.slots]
    for swap in plan.swaps:
        held = (swap.await_slot - swap.swap_out_slot) % count + 1
        for slot in {(swap.swap_out_slot + k) % count for k in range(held)} | kept_slots(
            plan, swap
        ):
            # A swap-out runs before an await at the same anchor, so both hold their bytes there.
            assert holders[slot].setdefault(swap.storage, swap.host_offset_bytes) == (
                swap.host_offset_bytes
            )
    for at_slot in holders:
        places = sorted((start, start + sizes[storage]) for storage, start in at_slot.items())
        for (_, end), (start, _) in pairwise(places):
            assert end <= start, places
    ends = (swap.host_offset_bytes + sizes[swap.storage] for swap in plan.swaps)
    assert plan.host_pool_bytes == max(ends, default=0)
    if plan.host_budget_bytes is not None:
        assert plan.host_pool_bytes <= plan.host_budget_bytes


def kept_slots(plan: Plan, swap: Swap) -> set[int]:
    """Slots before a clean swap in which the copy it relies on waits for it."""
    if not swap.clean:
        return set()
    count = len(plan.slots)
    own = [other.await_slot for other in plan.swaps if other.storage == swap.storage]
    since = min((swap.swap_out_slot - slot) % count or count for slot in own)
    return {(swap.swap_out_slot - k) % count for k in range(since + 1)}


def _check_certificate(plan: Plan, profile: Profile) -> None:
    found = plan.certificate
    sizes = [profile.storages[swap.storage].size_bytes for swap in plan.swaps]
    without = [resident_bytes(profile, t) for t in range(len(profile.slots))]
    held = list(without)
    for swap, size in zip(plan.swaps, sizes, strict=True):
        for k in range((swap.swap_in_slot - swap.release_slot) % len(held)):
            held[(swap.release_slot + k) % len(held)] -= size
    assert found.peak_without_bytes == max(without)
    assert found.peak_bytes == max(held) <= plan.budget_bytes
    assert found.h2d_bytes == sum(sizes)
    assert found.d2h_bytes == sum(
        size for swap, size in zip(plan.swaps, sizes, strict=True) if not swap.clean
    )
    assert found.compute_us == close(profile.step_us)
    assert found.bound_beyond_us <= found.simulated_stall_us + ROUNDING * (1 + profile.step_us)
    assert 0 <= found.loose_bound_beyond_us <= found.bound_beyond_us
    if found.bound_source is not BoundSource.WHOLE_STORAGES:
        assert found.loose_bound_beyond_us == found.bound_beyond_us
    assert found.optimality_gap >= 0
    fits = max(without) <= plan.budget_bytes
    assert (found.proof is Proof.NOT_NEEDED) == fits
    assert (not plan.swaps) == fits


def swaps_of(plan: Plan) -> list[BareSwap]:
    """The plan's swaps, in its order."""
    return [
        BareSwap(s.storage, s.swap_out_slot, s.release_slot, s.swap_in_slot, s.await_slot, s.clean)
        for s in plan.swaps
    ]


def _check_simulation(plan: Plan, profile: Profile) -> None:
    sizes = {s.id: s.size_bytes for s in profile.storages}
    slots_us = [slot.duration_us for slot in profile.slots]
    mine = simulate(slots_us, sizes, swaps_of(plan), plan.link)
    theirs = simulate_plan(plan)
    assert list(theirs.stall_us) == close(list(mine.stall_us))
    assert [tuple(copy) for copy in theirs.d2h] == [close(tuple(c)) for c in mine.d2h]
    assert [tuple(copy) for copy in theirs.h2d] == [close(tuple(c)) for c in mine.h2d]
    stall_us = sum(mine.stall_us)
    assert theirs.total_stall_us == close(stall_us)
    assert theirs.step_us == close(profile.step_us + stall_us)
    assert plan.certificate.simulated_stall_us == close(stall_us)
