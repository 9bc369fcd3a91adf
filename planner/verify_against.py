"""Whether a plan fits the profile it names.

This is where "no use of an absent storage" is checked: a plan holds no uses, a profile does.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from planner.gaps import Gap, candidate_gaps
from planner.memory import slot_memory
from profiles.hardware import LINKS
from profiles.profile import Profile

if TYPE_CHECKING:
    from planner.plan import Plan, Swap


def first_fault_against(plan: "Plan", profile: Profile) -> str | None:
    """Returns the first way in which a plan does not fit a profile, or None if it fits."""
    return next(_faults_against(plan, profile), None)


def _faults_against(plan: "Plan", profile: Profile) -> Iterator[str]:
    for field, found, expected in (
        ("profile_fingerprint", plan.profile_fingerprint, profile.fingerprint()),
        ("model_fingerprint", plan.model_fingerprint, profile.model_fingerprint),
        ("model", plan.model, profile.model),
        ("workload", plan.workload, profile.workload),
        ("times", plan.times, profile.times),
        ("device", plan.device, profile.device),
        ("number of slots", len(plan.slots), len(profile.slots)),
    ):
        if found != expected:
            yield f"{field} is {found!r}, the profile has {expected!r}"
            return
    yield from _link_faults(plan, profile)
    yield from _slot_faults_against(plan, profile)
    yield from _storage_faults_against(plan, profile)
    yield from _gap_faults_against(plan, profile)


def _link_faults(plan: "Plan", profile: Profile) -> Iterator[str]:
    """A link that goes by a name of the table, but is not that link."""
    known = LINKS.get(plan.link.name)
    if known is None or plan.link in (known, profile.link):
        return
    for field, found in plan.link:
        expected = getattr(known, field)
        if found != expected:
            yield f"link.{field} is {found!r}, link {known.name} has {expected!r}"


def _slot_faults_against(plan: "Plan", profile: Profile) -> Iterator[str]:
    memory = slot_memory(profile)
    for t, (planned, recorded) in enumerate(zip(plan.slots, profile.slots, strict=True)):
        for field in ("anchor", "shows", "duration_us"):
            if getattr(planned, field) != getattr(recorded, field):
                found, expected = getattr(planned, field), getattr(recorded, field)
                yield f"slots[{t}].{field} is {found!r}, the profile has {expected!r}"
        for field in ("resident_bytes", "peak_op"):
            if getattr(planned, field) != getattr(memory[t], field):
                found, expected = getattr(planned, field), getattr(memory[t], field)
                yield f"slots[{t}].{field} is {found!r}, the profile gives {expected!r}"


def _storage_faults_against(plan: "Plan", profile: Profile) -> Iterator[str]:
    for position, planned in enumerate(plan.storages):
        if planned.id >= len(profile.storages):
            yield f"storages[{position}].id is {planned.id}, the profile has no such storage"
            return
        recorded = profile.storages[planned.id]
        for field in ("name", "kind", "size_bytes", "module", "is_mask"):
            if getattr(planned, field) != getattr(recorded, field):
                found, expected = getattr(planned, field), getattr(recorded, field)
                yield f"storages[{position}].{field} is {found!r}, the profile has {expected!r}"


def _gap_faults_against(plan: "Plan", profile: Profile) -> Iterator[str]:
    count = len(plan.slots)
    gaps: dict[int, list[Gap]] = {}
    for gap in candidate_gaps(profile, min_size_bytes=0, boundary=plan.boundary):
        gaps.setdefault(gap.storage, []).append(gap)
    for position, swap in enumerate(plan.swaps):
        gap_of_swap = _gap_around(swap, gaps.get(swap.storage, []), count)
        if gap_of_swap is None:
            yield (
                f"swaps[{position}] moves storage {swap.storage} from slot {swap.swap_out_slot} to "
                f"slot {swap.await_slot}, which is inside none of its gaps"
            )
            return
        if (
            swap.clean
            and not gap_of_swap.lasting
            and not _is_copied(plan, position, gaps[swap.storage])
        ):
            yield (
                f"swaps[{position}].clean is true, but storage {swap.storage} is written since "
                "the last copy of it was made"
            )


def _gap_around(swap: "Swap", gaps: Sequence[Gap], slot_count: int) -> Gap | None:
    """The gap a swap lies in."""
    slots_away = swap.slots_after_out(swap.await_slot, slot_count)
    for gap in gaps:
        slots_in = (swap.swap_out_slot - gap.first_slot) % slot_count
        if gap.first_slot + slots_in + slots_away <= gap.next_use_slot:
            return gap
    return None


def _is_copied(plan: "Plan", position: int, gaps: Sequence[Gap]) -> bool:
    """Whether the copy that a clean swap relies on holds the bytes of its gap."""
    count = len(plan.slots)
    clean = plan.swaps[position]
    own = _gap_around(clean, gaps, count)
    copying = [s for s in plan.swaps if s.storage == clean.storage and not s.clean]
    if not copying or own is None:
        return False
    # The last copy made before it, in the same step or in the one before.
    last = min(copying, key=lambda s: s.slots_after_out(clean.swap_out_slot, count))
    before = _gap_around(last, gaps, count)
    return before is not None and before.content == own.content and before.turn < own.turn
