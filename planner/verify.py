"""The invariants of a plan: what must hold whatever made it.

A plan is verified whenever one is built or read. Memory is checked slot by slot in program order,
and every figure that can be derived again is. The verifier knows nothing of how plans are made.
"""

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from planner.memory import planned_bytes
from planner.simulate import simulate_plan
from profiles.errors import FileError
from profiles.profile import BEGIN, END

if TYPE_CHECKING:
    from planner.plan import Plan, PlannedStorage, Swap

TIME_REL_TOLERANCE = 1e-6
TIME_ABS_TOLERANCE_US = 1e-3
"""Times are sums of floats; a nanosecond, or a millionth, is rounding."""

PACK = "pack:"
"""An activation is named after the anchor that first shows it."""


def first_fault(plan: "Plan") -> str | None:
    """Returns the first broken invariant, worded with its place in the file; None if all hold."""
    for check in (_storage_faults, _slot_faults, _swap_faults, _trip_faults):
        # Each check may rely on the ones before it.
        fault = next(check(plan), None)
        if fault is not None:
            return fault
    for check in (_host_faults, _memory_faults, _certificate_faults):
        fault = next(check(plan), None)
        if fault is not None:
            return fault
    return None


def verify(plan: "Plan") -> None:
    """Verifies a plan.

    Raises:
        FileError: An invariant is broken.
    """
    fault = first_fault(plan)
    if fault is not None:
        raise FileError(f"the plan is broken: {fault}. Make it again with 'plan solve'.")


def _storage_faults(plan: "Plan") -> Iterator[str]:
    ids = [storage.id for storage in plan.storages]
    for position, (before, after) in enumerate(pairwise(ids)):
        if after <= before:
            yield f"storages[{position + 1}].id is {after}, expected above {before}"
    names = [storage.name for storage in plan.storages]
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        yield f"two storages are named {double!r}, expected one"


def _slot_faults(plan: "Plan") -> Iterator[str]:
    keys = [slot.anchor for slot in plan.slots]
    if keys[0] != BEGIN or keys[-1] != END:
        yield f"slots run from {keys[0]!r} to {keys[-1]!r}, expected {BEGIN!r} to {END!r}"
    if len(set(keys)) < len(keys):
        double = next(key for key in keys if keys.count(key) > 1)
        yield f"two slots open at anchor {double!r}, expected one"
    known = {storage.id for storage in plan.storages}
    for t, slot in enumerate(plan.slots):
        if slot.shows is not None and slot.shows not in known:
            yield f"slots[{t}].shows is {slot.shows}, expected the id of a storage in the plan"


def _swap_faults(plan: "Plan") -> Iterator[str]:
    storages = {storage.id: storage for storage in plan.storages}
    shown_slots = _first_shown(plan)
    for position, swap in enumerate(plan.swaps):
        where = f"swaps[{position}]"
        if swap.storage not in storages:
            yield f"{where}.storage is {swap.storage}, expected the id of a storage in the plan"
            return
        yield from _order_faults(where, swap, len(plan.slots))
        yield from _shown_faults(where, swap, storages[swap.storage], shown_slots)
    for position, (before, after) in enumerate(pairwise(plan.swaps)):
        if after.swap_out_slot < before.swap_out_slot:
            yield (
                f"swaps[{position + 1}].swap_out_slot is {after.swap_out_slot}, expected "
                f"{before.swap_out_slot} or later: swaps stand in order of swap-out"
            )


def _order_faults(where: str, swap: "Swap", slot_count: int) -> Iterator[str]:
    if swap.release_slot < swap.swap_out_slot:
        yield (
            f"{where}.release_slot is {swap.release_slot}, expected {swap.swap_out_slot} "
            "(swap_out_slot) or later"
        )
    if swap.swap_in_slot <= swap.release_slot:
        yield (
            f"{where}.swap_in_slot is {swap.swap_in_slot}, expected after {swap.release_slot} "
            "(release_slot): the swap would free nothing"
        )
    if swap.await_slot < swap.swap_in_slot:
        yield (
            f"{where}.await_slot is {swap.await_slot}, expected {swap.swap_in_slot} "
            "(swap_in_slot) or later"
        )
    if swap.await_slot >= slot_count:
        yield f"{where}.await_slot is {swap.await_slot}, expected below {slot_count}"


def _first_shown(plan: "Plan") -> dict[int, int]:
    """The first slot whose anchor shows each storage."""
    shown: dict[int, int] = {}
    for t, slot in enumerate(plan.slots):
        if slot.shows is not None:
            shown.setdefault(slot.shows, t)
    return shown


def _shown_faults(
    where: str, swap: "Swap", storage: "PlannedStorage", shown_slots: dict[int, int]
) -> Iterator[str]:
    # Storages with a qualified name are known without being shown.
    if not storage.name.startswith(PACK):
        return
    shown_slot = shown_slots.get(storage.id)
    if shown_slot is None:
        yield f"{where} moves storage {storage.id} {storage.name!r}, which no anchor shows"
    elif swap.swap_out_slot < shown_slot:
        yield (
            f"{where}.swap_out_slot is {swap.swap_out_slot}, expected {shown_slot} or later: "
            f"only there an anchor shows storage {storage.id} {storage.name!r}"
        )


def _trip_faults(plan: "Plan") -> Iterator[str]:
    """Two trips of one storage must not touch: one anchor issues before it awaits."""
    last: dict[int, tuple[int, int]] = {}
    for position, swap in enumerate(plan.swaps):
        if swap.storage in last:
            earlier, await_slot = last[swap.storage]
            if swap.swap_out_slot <= await_slot:
                yield (
                    f"swaps[{position}].swap_out_slot is {swap.swap_out_slot}, expected after "
                    f"{await_slot}: until then swaps[{earlier}] moves storage {swap.storage}"
                )
        last[swap.storage] = (position, swap.await_slot)


def _host_faults(plan: "Plan") -> Iterator[str]:
    yield from _overlap_faults(plan)
    size_bytes = {storage.id: storage.size_bytes for storage in plan.storages}
    ends = (swap.host_offset_bytes + size_bytes[swap.storage] for swap in plan.swaps)
    used_bytes = max(ends, default=0)
    if plan.host_pool_bytes != used_bytes:
        yield f"host_pool_bytes is {plan.host_pool_bytes}, expected {used_bytes} from the swaps"
    if plan.host_budget_bytes is not None and used_bytes > plan.host_budget_bytes:
        yield (
            f"host_pool_bytes is {used_bytes}, expected at most {plan.host_budget_bytes} "
            "(host_budget_bytes)"
        )


def _overlap_faults(plan: "Plan") -> Iterator[str]:
    """No host byte may belong to two swaps at once (see `planner.host_pool`)."""
    size_bytes = {storage.id: storage.size_bytes for storage in plan.storages}
    active: list[int] = []
    for position, swap in enumerate(plan.swaps):
        # Swaps stand in order of swap-out, so this sweep meets every pair that lives together.
        active = [i for i in active if plan.swaps[i].await_slot >= swap.swap_out_slot]
        first = swap.host_offset_bytes
        end = first + size_bytes[swap.storage]
        for i in active:
            other = plan.swaps[i].host_offset_bytes
            if first < other + size_bytes[plan.swaps[i].storage] and other < end:
                yield (
                    f"swaps[{position}].host_offset_bytes is {first}, expected bytes that "
                    f"swaps[{i}] does not hold at the same time"
                )
        active.append(position)


def _memory_faults(plan: "Plan") -> Iterator[str]:
    for t, resident_bytes in enumerate(planned_bytes(plan)):
        slot = plan.slots[t]
        if resident_bytes < 0:
            yield (
                f"slots[{t}].resident_bytes is {slot.resident_bytes}, less than what is swapped "
                "out then"
            )
        if resident_bytes > plan.budget_bytes:
            yield (
                f"slots[{t}] ({slot.anchor}) holds {resident_bytes} bytes under the plan, expected "
                f"at most {plan.budget_bytes} (budget_bytes)"
            )


def _certificate_faults(plan: "Plan") -> Iterator[str]:
    certificate = plan.certificate
    size_bytes = {storage.id: storage.size_bytes for storage in plan.storages}
    moved_bytes = sum(size_bytes[swap.storage] for swap in plan.swaps)
    derived_bytes = {
        "peak_without_bytes": max(slot.resident_bytes for slot in plan.slots),
        "peak_bytes": max(planned_bytes(plan)),
        "d2h_bytes": moved_bytes,
        "h2d_bytes": moved_bytes,
    }
    for field, expected_bytes in derived_bytes.items():
        if getattr(certificate, field) != expected_bytes:
            found_bytes = getattr(certificate, field)
            yield f"certificate.{field} is {found_bytes}, expected {expected_bytes} from the plan"
    derived_us = {
        "compute_us": sum(slot.duration_us for slot in plan.slots),
        "simulated_stall_us": simulate_plan(plan).total_stall_us,
    }
    for field, expected_us in derived_us.items():
        if not _same_time(getattr(certificate, field), expected_us):
            found_us = getattr(certificate, field)
            yield f"certificate.{field} is {found_us}, expected {expected_us} from the plan"
    yield from _proof_faults(plan)


def _proof_faults(plan: "Plan") -> Iterator[str]:
    from planner.plan import BoundSource, Proof

    certificate = plan.certificate
    bound_us, simulated_us = certificate.bound_stall_us, certificate.simulated_stall_us
    if bound_us > simulated_us and not _same_time(bound_us, simulated_us):
        yield (
            f"certificate.bound_stall_us is {bound_us}, expected at most {simulated_us} "
            "(simulated_stall_us)"
        )
    if certificate.bound_source is BoundSource.TRIVIAL and bound_us > 0:
        yield f"certificate.bound_stall_us is {bound_us}, expected 0 from a bound that is trivial"
    if certificate.proof is Proof.NOT_NEEDED and plan.swaps:
        yield f"certificate.proof is {certificate.proof.value!r}, but the plan has swaps"


def _same_time(one_us: float, other_us: float) -> bool:
    return math.isclose(one_us, other_us, rel_tol=TIME_REL_TOLERANCE, abs_tol=TIME_ABS_TOLERANCE_US)
