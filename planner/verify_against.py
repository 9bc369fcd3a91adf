"""Whether a plan fits the profile it names.

This is where "no use of an absent storage" is checked: a plan holds no uses, a profile does.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from planner.gaps import candidate_gaps
from planner.memory import slot_memory
from profiles.profile import Profile

if TYPE_CHECKING:
    from planner.plan import Plan


def first_fault_against(plan: "Plan", profile: Profile) -> str | None:
    """Returns the first way in which a plan does not fit a profile, or None if it fits."""
    return next(_faults_against(plan, profile), None)


def _faults_against(plan: "Plan", profile: Profile) -> Iterator[str]:
    for field, found, expected in (
        ("profile_fingerprint", plan.profile_fingerprint, profile.fingerprint()),
        ("model_fingerprint", plan.model_fingerprint, profile.model_fingerprint),
        ("workload", plan.workload, profile.workload),
        ("times", plan.times, profile.times),
        ("device", plan.device, profile.device),
        ("number of slots", len(plan.slots), len(profile.slots)),
    ):
        if found != expected:
            yield f"{field} is {found!r}, the profile has {expected!r}"
            return
    yield from _slot_faults_against(plan, profile)
    yield from _storage_faults_against(plan, profile)
    yield from _gap_faults_against(plan, profile)


def _slot_faults_against(plan: "Plan", profile: Profile) -> Iterator[str]:
    memory = slot_memory(profile)
    for t, (planned, recorded) in enumerate(zip(plan.slots, profile.slots, strict=True)):
        for field in ("anchor", "shows", "duration_us"):
            if getattr(planned, field) != getattr(recorded, field):
                found, expected = getattr(planned, field), getattr(recorded, field)
                yield f"slots[{t}].{field} is {found!r}, the profile has {expected!r}"
        if planned.resident_bytes != memory[t].resident_bytes:
            yield (
                f"slots[{t}].resident_bytes is {planned.resident_bytes}, the profile gives "
                f"{memory[t].resident_bytes}"
            )


def _storage_faults_against(plan: "Plan", profile: Profile) -> Iterator[str]:
    for position, planned in enumerate(plan.storages):
        if planned.id >= len(profile.storages):
            yield f"storages[{position}].id is {planned.id}, the profile has no such storage"
            return
        recorded = profile.storages[planned.id]
        for field in ("name", "kind", "size_bytes", "module"):
            if getattr(planned, field) != getattr(recorded, field):
                found, expected = getattr(planned, field), getattr(recorded, field)
                yield f"storages[{position}].{field} is {found!r}, the profile has {expected!r}"


def _gap_faults_against(plan: "Plan", profile: Profile) -> Iterator[str]:
    gaps: dict[int, list[tuple[int, int]]] = {}
    for gap in candidate_gaps(profile, min_size_bytes=0):
        gaps.setdefault(gap.storage, []).append((gap.first_slot, gap.next_use_slot))
    for position, swap in enumerate(plan.swaps):
        inside = gaps.get(swap.storage, [])
        if not any(a <= swap.swap_out_slot and swap.await_slot <= b for a, b in inside):
            yield (
                f"swaps[{position}] moves storage {swap.storage} from slot {swap.swap_out_slot} to "
                f"slot {swap.await_slot}, which is inside none of its gaps"
            )
