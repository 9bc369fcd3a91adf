"""The invariants of a plan: what must hold whatever made it.

A plan is verified where one is built and where one is read. Memory is checked slot by slot in
program order, and every figure that can be derived again is. The verifier knows nothing of how
plans are made.
"""

import math
from collections.abc import Collection, Iterator
from itertools import chain, pairwise
from typing import Any

from planner.plan.device_memory import Absence, planned_bytes, resident_bytes, unplanned_bytes
from planner.plan.host_memory import first_overlap, host_needs
from planner.plan.plan import (
    Boundary,
    BoundSource,
    Drop,
    Plan,
    PlannedStorage,
    Proof,
    Rebuild,
    Swap,
    Without,
)
from planner.plan.simulate import simulate_plan
from profiles.schema.checks import (
    anchor_faults,
    kind_faults,
    proportion_faults,
    same_name_faults,
)
from profiles.schema.errors import FileError
from profiles.schema.link import CopyMethod
from profiles.schema.profile import PACK, StorageKind

TIME_REL_TOLERANCE = 1e-6
TIME_ABS_TOLERANCE_US = 1e-3
"""Times are sums of floats; a nanosecond, or a millionth, is rounding."""


def verified(plan: Plan) -> Plan:
    """Returns a plan whose invariants all hold.

    Raises:
        FileError: One is broken.
    """
    fault = first_fault(plan)
    if fault is not None:
        raise FileError(f"the plan is broken: {fault}. Make it again with 'plan solve'.")
    return plan


def first_fault(plan: Plan) -> str | None:
    """Returns the first broken invariant, worded with its place in the file; None if all hold."""
    return structure_fault(plan) or next(_certificate_faults(plan), None)


def structure_fault(plan: Plan) -> str | None:
    """Returns the first broken invariant of all but the certificate; None if all hold."""
    # Each check may rely on the ones before it: what they find is looked at in this order.
    found = chain(
        _proportion_faults(plan),
        _without_faults(plan),
        _storage_faults(plan),
        _slot_faults(plan),
        _swap_faults(plan),
        _overlap_faults(plan),
        _rebuild_faults(plan),
        _host_faults(plan),
        _memory_faults(plan),
    )
    return next(found, None)


def derived_figures(plan: Plan) -> dict[str, Any]:
    """Returns the figures of the certificate that follow from the plan, by field name."""
    size_bytes = plan.host_sizes_bytes
    return {
        "peak_without_bytes": max(unplanned_bytes(plan)),
        "peak_bytes": max(planned_bytes(plan)),
        "d2h_bytes": sum(size_bytes[swap.storage] for swap in plan.swaps if not swap.clean),
        "h2d_bytes": sum(size_bytes[swap.storage] for swap in plan.swaps),
        "compute_us": sum(slot.duration_us - slot.recompute_us for slot in plan.slots),
        "recompute_us": sum(slot.recompute_us for slot in plan.slots),
        "simulated_stall_us": simulate_plan(plan).total_stall_us,
    }


def same_time(one_us: float, other_us: float) -> bool:
    """Whether two times differ by rounding at most."""
    return math.isclose(one_us, other_us, rel_tol=TIME_REL_TOLERANCE, abs_tol=TIME_ABS_TOLERANCE_US)


def _storage_faults(plan: Plan) -> Iterator[str]:
    ids = [storage.id for storage in plan.storages]
    for position, (before, after) in enumerate(pairwise(ids)):
        if after <= before:
            yield f"storages[{position + 1}].id is {after}, expected above {before}"
    for position, storage in enumerate(plan.storages):
        yield from kind_faults(f"storages[{position}]", storage.name, storage.kind)
    yield from same_name_faults(storage.name for storage in plan.storages)


def _proportion_faults(plan: Plan) -> Iterator[str]:
    return proportion_faults(
        plan.device,
        plan.model,
        plan.model_fingerprint,
        (slot.duration_us for slot in plan.slots),
        (storage.size_bytes for storage in plan.storages),
    )


def _without_faults(plan: Plan) -> Iterator[str]:
    """A plan that does what it was not to do."""
    parts = {Without.RECOMPUTE: ("rebuilds", plan.rebuilds), Without.SWAP: ("swaps", plan.swaps)}
    part, found = parts.get(plan.without, ("", ()))
    if found:
        yield f"without is {plan.without.value!r}, but the plan has {part}"
    if plan.without is Without.SWAP and plan.host_budget_bytes != 0:
        yield f"host_budget_bytes is {plan.host_budget_bytes}, expected 0 without swap"


def _slot_faults(plan: Plan) -> Iterator[str]:
    yield from anchor_faults([slot.anchor for slot in plan.slots])
    for t, slot in enumerate(plan.slots):
        if slot.shows is not None and slot.shows not in plan.by_id:
            yield f"slots[{t}].shows is {slot.shows}, expected the id of a storage in the plan"


def _swap_faults(plan: Plan) -> Iterator[str]:
    shown_slots: dict[int, int] = {}
    for t, slot in enumerate(plan.slots):
        if slot.shows is not None:
            shown_slots.setdefault(slot.shows, t)
    measured = {CopyMethod.DMA, *(rate.engine for rate in plan.link.engines)}
    for position, swap in enumerate(plan.swaps):
        where = f"swaps[{position}]"
        storage = plan.by_id.get(swap.storage)
        if storage is None:
            yield f"{where}.storage is {swap.storage}, expected the id of a storage in the plan"
            return
        yield from _order_faults(where, swap, len(plan.slots))
        yield from _boundary_faults(where, swap, storage, plan.boundary)
        yield from _shown_faults(where, swap, storage, shown_slots)
        expected = plan.engines.get(swap.storage, CopyMethod.DMA)
        yield from _engine_faults(where, swap, storage, expected, measured)
    for position, (before, after) in enumerate(pairwise(plan.swaps)):
        if after.swap_out_slot < before.swap_out_slot:
            yield (
                f"swaps[{position + 1}].swap_out_slot is {after.swap_out_slot}, expected "
                f"{before.swap_out_slot} or later: swaps stand in order of swap-out"
            )


def _order_faults(where: str, swap: Swap, slot_count: int) -> Iterator[str]:
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
    where: str, swap: Swap, storage: PlannedStorage, boundary: Boundary
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
    swap: Swap,
    storage: PlannedStorage,
    expected: CopyMethod,
    measured: Collection[CopyMethod],
) -> Iterator[str]:
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


def _shown_faults(
    where: str, swap: Swap, storage: PlannedStorage, shown_slots: dict[int, int]
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


def _overlap_faults(plan: Plan) -> Iterator[str]:
    """Two swaps of one storage must not touch: one anchor issues before it awaits."""
    of_storage: dict[int, list[int]] = {}
    for position, swap in enumerate(plan.swaps):
        of_storage.setdefault(swap.storage, []).append(position)
    for storage, positions in of_storage.items():
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


def _rebuild_faults(plan: Plan) -> Iterator[str]:
    """What is dropped is known, comes back once, and does not move meanwhile."""
    busy: dict[int, list[tuple[int, int]]] = {}
    for swap in plan.swaps:
        busy.setdefault(swap.storage, []).append((swap.swap_out_slot, swap.await_slot))
    for position, rebuild in enumerate(plan.rebuilds):
        where = f"rebuilds[{position}]"
        if position and rebuild.slot < plan.rebuilds[position - 1].slot:
            yield f"{where}.slot is {rebuild.slot}, expected that of the rebuild before or later"
        yield from _recipe_faults(where, rebuild, plan)
        if not rebuild.drops:
            yield f"{where} has no drops, expected what is filled again"
        for n, drop in enumerate(rebuild.drops):
            yield from _drop_faults(f"{where}.drops[{n}]", drop, rebuild, plan)
            away = busy.setdefault(drop.storage, [])
            for begin, end in away:
                # At one anchor a storage cannot come back and leave again.
                apart = drop.slot > end or rebuild.slot < begin
                if not (apart if begin <= end else end < drop.slot <= rebuild.slot < begin):
                    yield (
                        f"{where}.drops[{n}].slot is {drop.slot}, expected outside {begin} to "
                        f"{end}, when storage {drop.storage} is away already"
                    )
            away.append((drop.slot, rebuild.slot))
    yield from _recompute_time_faults(plan)


def _recipe_faults(where: str, rebuild: Rebuild, plan: Plan) -> Iterator[str]:
    if not rebuild.ops:
        yield f"{where} has no ops, expected those to run"
    if not 0 < rebuild.slot < len(plan.slots) - 1:
        yield f"{where}.slot is {rebuild.slot}, expected 1 to {len(plan.slots) - 2}"
    for before, after in pairwise(rebuild.ops):
        ordered = before.op < after.op and (before.slot, before.position) < (
            after.slot,
            after.position,
        )
        if not ordered:
            yield f"{where}.ops has op {after.op} after op {before.op}, expected program order"
    for op in rebuild.ops:
        if op.slot >= rebuild.slot:
            yield f"{where}.ops runs op {op.op} of slot {op.slot}, expected one before its own slot"


def _drop_faults(where: str, drop: Drop, rebuild: Rebuild, plan: Plan) -> Iterator[str]:
    storage = plan.by_id.get(drop.storage)
    if storage is None:
        yield f"{where}.storage is {drop.storage}, expected the id of a storage in the plan"
        return
    if storage.kind is not StorageKind.ACTIVATION or not storage.name.startswith(PACK):
        yield (
            f"{where} drops {storage.name!r} ({storage.kind.value}), expected an activation that "
            "is packed"
        )
    shown_slot = next((t for t, s in enumerate(plan.slots) if s.shows == storage.id), None)
    first = len(plan.slots) if shown_slot is None else shown_slot
    if not first <= drop.slot < rebuild.slot:
        yield f"{where}.slot is {drop.slot}, expected {first} to {rebuild.slot - 1}"


def _recompute_time_faults(plan: Plan) -> Iterator[str]:
    rebuilt = {rebuild.slot for rebuild in plan.rebuilds}
    for t, slot in enumerate(plan.slots):
        if slot.recompute_us > 0 and t not in rebuilt:
            yield f"slots[{t}].recompute_us is {slot.recompute_us}, expected 0 with no rebuild"
        again_us = sum(rebuild.recompute_us for rebuild in plan.rebuilds if rebuild.slot == t)
        if t in rebuilt and not same_time(again_us, slot.recompute_us):
            yield (
                f"slots[{t}].recompute_us is {slot.recompute_us}, expected {again_us} from the "
                "rebuilds"
            )
        if slot.recompute_us > slot.duration_us and not same_time(
            slot.recompute_us, slot.duration_us
        ):
            yield (
                f"slots[{t}].recompute_us is {slot.recompute_us}, expected at most "
                f"{slot.duration_us} (duration_us)"
            )


def _host_faults(plan: Plan) -> Iterator[str]:
    """What is wrong with the host pool of a plan whose swaps are sound."""
    yield from _host_overlap_faults(plan)
    used_bytes = plan.used_host_bytes
    if plan.host_pool_bytes != used_bytes:
        yield f"host_pool_bytes is {plan.host_pool_bytes}, expected {used_bytes} from the swaps"
    if plan.host_budget_bytes is not None and used_bytes > plan.host_budget_bytes:
        yield (
            f"host_pool_bytes is {used_bytes}, expected at most {plan.host_budget_bytes} "
            "(host_budget_bytes)"
        )


def _host_overlap_faults(plan: Plan) -> Iterator[str]:
    """No host byte may belong to two storages at once (see `planner.plan.host_memory`)."""
    together = host_needs(plan.swaps, plan.host_sizes_bytes, len(plan.slots))
    offsets = [swap.host_offset_bytes for swap in plan.swaps]
    of_need: dict[int, int] = {}
    for position, need in enumerate(together.of_swap):
        first = of_need.setdefault(need, position)
        if offsets[position] != offsets[first]:
            yield (
                f"swaps[{position}].host_offset_bytes is {offsets[position]}, expected "
                f"{offsets[first]}: it shares the host copy of swaps[{first}]"
            )
    need_offsets = [offsets[of_need[need]] for need in range(len(together.needs))]
    two = first_overlap(together.needs, need_offsets, len(plan.slots))
    if two is not None:
        one, other = (of_need[need] for need in two)
        yield (
            f"swaps[{other}].host_offset_bytes is {offsets[other]}, expected bytes that "
            f"swaps[{one}] does not hold at the same time"
        )


def _memory_faults(plan: Plan) -> Iterator[str]:
    yield from _dropped_faults(plan)
    for t, held_bytes in enumerate(planned_bytes(plan)):
        slot = plan.slots[t]
        if held_bytes < 0:
            yield (
                f"slots[{t}].resident_bytes is {slot.resident_bytes}, less than what is swapped "
                "out then"
            )
        if held_bytes > plan.budget_bytes:
            yield (
                f"slots[{t}] ({slot.anchor}) holds {held_bytes} bytes under the plan, expected "
                f"at most {plan.budget_bytes} (budget_bytes)"
            )


def _dropped_faults(plan: Plan) -> Iterator[str]:
    """Where nothing is run again, all that dropping changes is that the dropped bytes are gone."""
    rebuilt = {rebuild.slot for rebuild in plan.rebuilds}
    dropped = (
        Absence(drop.slot, rebuild.slot, plan.sizes_bytes[drop.storage])
        for rebuild in plan.rebuilds
        for drop in rebuild.drops
    )
    without_bytes = unplanned_bytes(plan)
    for t, expected in enumerate(resident_bytes(without_bytes, dropped)):
        found = plan.slots[t].resident_bytes
        if t not in rebuilt and found != expected:
            yield (
                f"slots[{t}].resident_bytes is {found}, expected {expected}: {without_bytes[t]} "
                "(without_bytes) less what is dropped"
            )


def _certificate_faults(plan: Plan) -> Iterator[str]:
    for field, expected in derived_figures(plan).items():
        found = getattr(plan.certificate, field)
        # Bytes are whole numbers: those that differ by rounding alone differ.
        same = found == expected if isinstance(expected, int) else same_time(found, expected)
        if not same:
            yield f"certificate.{field} is {found}, expected {expected} from the plan"
    yield from proof_faults(plan)


def proof_faults(plan: Plan) -> Iterator[str]:
    """Yields what is wrong with the bounds and the proof of a certificate whose figures hold."""
    certificate = plan.certificate
    bound_us = certificate.bound_beyond_us
    beyond_us = certificate.beyond_us
    if bound_us > beyond_us and not same_time(bound_us, beyond_us):
        yield (
            f"certificate.bound_beyond_us is {bound_us}, expected at most {beyond_us} "
            "(recompute_us and simulated_stall_us)"
        )
    loose_us = certificate.loose_bound_beyond_us
    if loose_us > bound_us:
        yield (
            f"certificate.loose_bound_beyond_us is {loose_us}, expected at most {bound_us} "
            "(bound_beyond_us)"
        )
    if certificate.bound_source is BoundSource.RELAXATION and loose_us != bound_us:
        yield (
            f"certificate.bound_beyond_us is {bound_us}, expected {loose_us} "
            f"(loose_bound_beyond_us), from the {certificate.bound_source.value}"
        )
    if certificate.bound_source is BoundSource.TRIVIAL and bound_us > 0:
        yield f"certificate.bound_beyond_us is {bound_us}, expected 0 from a bound that is trivial"
    if certificate.proof is Proof.NOT_NEEDED and (plan.swaps or plan.rebuilds):
        yield f"certificate.proof is {certificate.proof.value!r}, but the plan moves storages"
