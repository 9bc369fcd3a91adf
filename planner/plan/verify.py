"""The invariants of a plan: what must hold whatever made it.

A plan is verified whenever one is built or read. Memory is checked slot by slot in program order,
and every figure that can be derived again is. The verifier knows nothing of how plans are made.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from planner.plan.device_memory import planned_bytes
from planner.plan.plan import Boundary
from planner.plan.simulate import simulate_plan
from planner.plan.verify_host import host_faults
from profiles.schema.checks import (
    anchor_faults,
    kind_faults,
    proportion_faults,
    same_name_faults,
)
from profiles.schema.errors import FileError
from profiles.schema.link import CopyMethod

if TYPE_CHECKING:
    from planner.plan.plan import Plan, PlannedStorage, Swap

TIME_REL_TOLERANCE = 1e-6
TIME_ABS_TOLERANCE_US = 1e-3
"""Times are sums of floats; a nanosecond, or a millionth, is rounding."""

PACK = "pack:"
"""An activation is named after the anchor that first shows it."""


def first_fault(plan: "Plan") -> str | None:
    """Returns the first broken invariant, worded with its place in the file; None if all hold."""
    return structure_fault(plan) or next(_certificate_faults(plan), None)


def structure_fault(plan: "Plan") -> str | None:
    """Returns the first broken invariant of all but the certificate; None if all hold."""
    # Each check may rely on the ones before it.
    checks = (
        _proportion_faults,
        _storage_faults,
        _slot_faults,
        _swap_faults,
        _overlap_faults,
        host_faults,
        _memory_faults,
    )
    for check in checks:
        fault = next(check(plan), None)
        if fault is not None:
            return fault
    return None


def derived_figures(plan: "Plan") -> dict[str, int | float]:
    """Returns the figures of the certificate that follow from the plan, by field name."""
    size_bytes = plan.host_sizes_bytes
    return {
        "peak_without_bytes": max(slot.resident_bytes for slot in plan.slots),
        "peak_bytes": max(planned_bytes(plan)),
        "d2h_bytes": sum(size_bytes[swap.storage] for swap in plan.swaps if not swap.clean),
        "h2d_bytes": sum(size_bytes[swap.storage] for swap in plan.swaps),
        "compute_us": sum(slot.duration_us for slot in plan.slots),
        "simulated_stall_us": simulate_plan(plan).total_stall_us,
    }


def verify(plan: "Plan") -> None:
    """Verifies a plan.

    Raises:
        FileError: An invariant is broken.
    """
    fault = first_fault(plan)
    if fault is not None:
        raise FileError(f"the plan is broken: {fault}. Make it again with 'plan solve'.")


def same_time(one_us: float, other_us: float) -> bool:
    """Whether two times differ by rounding at most."""
    return math.isclose(one_us, other_us, rel_tol=TIME_REL_TOLERANCE, abs_tol=TIME_ABS_TOLERANCE_US)


def _storage_faults(plan: "Plan") -> Iterator[str]:
    ids = [storage.id for storage in plan.storages]
    for position, (before, after) in enumerate(pairwise(ids)):
        if after <= before:
            yield f"storages[{position + 1}].id is {after}, expected above {before}"
    for position, storage in enumerate(plan.storages):
        yield from kind_faults(f"storages[{position}]", storage.name, storage.kind)
    yield from same_name_faults(storage.name for storage in plan.storages)


def _proportion_faults(plan: "Plan") -> Iterator[str]:
    return proportion_faults(
        plan.device,
        plan.model,
        plan.model_fingerprint,
        (slot.duration_us for slot in plan.slots),
        (storage.size_bytes for storage in plan.storages),
    )


def _slot_faults(plan: "Plan") -> Iterator[str]:
    yield from anchor_faults([slot.anchor for slot in plan.slots])
    known = {storage.id for storage in plan.storages}
    for t, slot in enumerate(plan.slots):
        if slot.shows is not None and slot.shows not in known:
            yield f"slots[{t}].shows is {slot.shows}, expected the id of a storage in the plan"


def _swap_faults(plan: "Plan") -> Iterator[str]:
    storages = {storage.id: storage for storage in plan.storages}
    shown_slots = _first_shown(plan)
    engines = plan.engines
    measured = {CopyMethod.DMA, *(rate.engine for rate in plan.link.engines)}
    for position, swap in enumerate(plan.swaps):
        where = f"swaps[{position}]"
        if swap.storage not in storages:
            yield f"{where}.storage is {swap.storage}, expected the id of a storage in the plan"
            return
        yield from _order_faults(where, swap, len(plan.slots))
        yield from _boundary_faults(where, swap, storages[swap.storage], plan.boundary)
        yield from _shown_faults(where, swap, storages[swap.storage], shown_slots)
        yield from _engine_faults(where, swap, storages[swap.storage], engines, measured)
    for position, (before, after) in enumerate(pairwise(plan.swaps)):
        if after.swap_out_slot < before.swap_out_slot:
            yield (
                f"swaps[{position + 1}].swap_out_slot is {after.swap_out_slot}, expected "
                f"{before.swap_out_slot} or later: swaps stand in order of swap-out"
            )


def _order_faults(where: str, swap: "Swap", slot_count: int) -> Iterator[str]:
    for field in ("swap_out_slot", "release_slot", "swap_in_slot", "await_slot"):
        if getattr(swap, field) >= slot_count:
            yield f"{where}.{field} is {getattr(swap, field)}, expected below {slot_count}"
    release, swap_in, awaited = (
        swap.slots_after_out(slot, slot_count)
        for slot in (swap.release_slot, swap.swap_in_slot, swap.await_slot)
    )
    if not release < swap_in <= awaited:
        yield (
            f"{where} has its swap-out, release, swap-in and await at slots {swap.swap_out_slot}, "
            f"{swap.release_slot}, {swap.swap_in_slot} and {swap.await_slot}, expected in this "
            "order, release before swap-in, within one step's length"
        )
    if swap.clean and release > 0:
        yield (
            f"{where}.release_slot is {swap.release_slot}, expected {swap.swap_out_slot} "
            "(swap_out_slot): it is clean"
        )


def _boundary_faults(
    where: str, swap: "Swap", storage: "PlannedStorage", boundary: Boundary
) -> Iterator[str]:
    if not swap.wraps:
        return
    if boundary is not Boundary.PERIODIC:
        yield (
            f"{where} wraps round the step boundary, expected none that does: boundary is "
            f"{boundary.value!r}"
        )
    if storage.name.startswith(PACK):
        yield (
            f"{where} wraps round the step boundary, expected a storage that lives across it, not "
            f"{storage.name!r}"
        )


def _engine_faults(
    where: str,
    swap: "Swap",
    storage: "PlannedStorage",
    engines: Mapping[int, CopyMethod],
    measured: Collection[CopyMethod],
) -> Iterator[str]:
    expected = engines.get(swap.storage, CopyMethod.DMA)
    if swap.engine is not expected:
        yield (
            f"{where}.engine is {swap.engine.value!r}, expected {expected.value!r} as in another "
            f"swap of storage {swap.storage}"
        )
    if swap.engine not in measured:
        yield f"{where}.engine is {swap.engine.value!r}, expected one with rates in link.engines"
    if swap.engine is CopyMethod.BITPACK_KERNEL and not storage.is_mask:
        yield (
            f"{where}.engine is {swap.engine.value!r}, expected a storage of bools, not "
            f"{storage.name!r}"
        )


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


def _overlap_faults(plan: "Plan") -> Iterator[str]:
    """Two trips of one storage must not touch: one anchor issues before it awaits."""
    trips: dict[int, list[int]] = {}
    for position, swap in enumerate(plan.swaps):
        trips.setdefault(swap.storage, []).append(position)
    for storage, positions in trips.items():
        # The last one's successor is the first one, in the next step.
        for earlier, later in zip(positions, [*positions[1:], positions[0]], strict=True):
            one, other = plan.swaps[earlier], plan.swaps[later]
            slots_to_next = one.slots_after_out(other.swap_out_slot, len(plan.slots))
            slots_away = one.slots_after_out(one.await_slot, len(plan.slots))
            if earlier != later and slots_to_next <= slots_away:
                yield (
                    f"swaps[{later}].swap_out_slot is {other.swap_out_slot}, expected after "
                    f"{one.await_slot}: until then swaps[{earlier}] moves storage {storage}"
                )


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
    for field, expected in derived_figures(plan).items():
        found = getattr(plan.certificate, field)
        # Bytes are whole numbers: those that differ by rounding alone differ.
        same = found == expected if isinstance(expected, int) else same_time(found, expected)
        if not same:
            yield f"certificate.{field} is {found}, expected {expected} from the plan"
    yield from _proof_faults(plan)


def _proof_faults(plan: "Plan") -> Iterator[str]:
    from planner.plan.plan import BoundSource, Proof

    certificate = plan.certificate
    bound_us, simulated_us = certificate.bound_stall_us, certificate.simulated_stall_us
    if bound_us > simulated_us and not same_time(bound_us, simulated_us):
        yield (
            f"certificate.bound_stall_us is {bound_us}, expected at most {simulated_us} "
            "(simulated_stall_us)"
        )
    loose_us = certificate.loose_bound_stall_us
    if loose_us > bound_us:
        yield (
            f"certificate.loose_bound_stall_us is {loose_us}, expected at most {bound_us} "
            "(bound_stall_us)"
        )
    if certificate.bound_source is BoundSource.RELAXATION and loose_us != bound_us:
        yield (
            f"certificate.bound_stall_us is {bound_us}, expected {loose_us} "
            f"(loose_bound_stall_us), from the {certificate.bound_source.value}"
        )
    if certificate.bound_source is BoundSource.TRIVIAL and bound_us > 0:
        yield f"certificate.bound_stall_us is {bound_us}, expected 0 from a bound that is trivial"
    if certificate.proof is Proof.NOT_NEEDED and plan.swaps:
        yield f"certificate.proof is {certificate.proof.value!r}, but the plan has swaps"
