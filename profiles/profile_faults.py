"""The checks that every profile passes, however it was made: recorded, estimated, or read.

Uses lie inside lifetimes, ops and slots follow each other, times add up, and every storage can be
found at replay or says why it never will be.
"""

import math
from collections.abc import Iterator

from profiles.profile import BEGIN, END, LeftOut, Profile, SlotTimes, Storage
from profiles.record_faults import first_double, kind_fault, model_fault, sum_faults, threads_fault
from profiles.slot_memory import lifetime

ROUNDING = 1e-9
"""How far a sum of times may be off by the order of its terms."""


def faults(profile: Profile) -> Iterator[str]:
    """Yields what is inconsistent between the records of a profile, with its place in the file."""
    yield from _slot_faults(profile)
    yield from _proportion_faults(profile)
    yield from _op_faults(profile)
    for storage, position in zip(profile.storages, range(len(profile.storages)), strict=True):
        if storage.id != position:
            yield f"storages[{position}].id is {storage.id}, expected {position}"
        yield from _storage_faults(profile, storage)
    double = first_double(storage.name for storage in profile.storages)
    if double is not None:
        yield f"two storages are named {double!r}, expected one"


def _proportion_faults(profile: Profile) -> Iterator[str]:
    faults_found = (
        threads_fault(profile.device),
        model_fault(profile.model, profile.model_fingerprint),
    )
    yield from (fault for fault in faults_found if fault is not None)
    overhead_bytes = max(slot.overhead_bytes for slot in profile.slots)
    yield from sum_faults(
        (slot.duration_us for slot in profile.slots),
        (overhead_bytes, *(storage.size_bytes for storage in profile.storages)),
    )


def _slot_faults(profile: Profile) -> Iterator[str]:
    keys = [slot.anchor for slot in profile.slots]
    if keys[0] != BEGIN or keys[-1] != END:
        yield f"slots run from {keys[0]!r} to {keys[-1]!r}, expected {BEGIN!r} to {END!r}"
    double = first_double(keys)
    if double is not None:
        yield f"two slots open at anchor {double!r}, expected one"
    for t, slot in enumerate(profile.slots):
        if slot.shows is not None and slot.shows >= len(profile.storages):
            yield f"slots[{t}].shows is {slot.shows}, expected below {len(profile.storages)}"
    if profile.slots[-1].duration_us != 0:
        yield f"slots[-1].duration_us is {profile.slots[-1].duration_us}, expected 0 after {END!r}"
    if profile.slot_times is SlotTimes.SUM_OF_OPS:
        yield from _sum_faults(profile)


def _sum_faults(profile: Profile) -> Iterator[str]:
    sums_us = [0.0] * len(profile.slots)
    for op in profile.ops:
        if op.slot < len(sums_us):
            sums_us[op.slot] += op.duration_us
    for t, (slot, sum_us) in enumerate(zip(profile.slots, sums_us, strict=True)):
        if not math.isclose(slot.duration_us, sum_us, rel_tol=ROUNDING, abs_tol=ROUNDING):
            found = slot.duration_us
            yield f"slots[{t}].duration_us is {found}, expected {sum_us}, the sum of its ops"


def _op_faults(profile: Profile) -> Iterator[str]:
    slot = 0
    for k, op in enumerate(profile.ops):
        # The slot that `end` opens holds no op.
        if not slot <= op.slot < len(profile.slots) - 1:
            yield f"ops[{k}].slot is {op.slot}, expected {slot} to {len(profile.slots) - 2}"
        slot = op.slot


def _storage_faults(profile: Profile, storage: Storage) -> Iterator[str]:
    where = f"storages[{storage.id}]"
    first, last = lifetime(storage, len(profile.ops))
    if first > len(profile.ops) or last >= len(profile.ops) or last < first - 1:
        yield (
            f"{where} lives from op {first} to op {last} (allocated_op, released_op), expected a "
            "stretch of the step"
        )
        return
    previous = first
    for use in storage.uses:
        if not previous <= use.op <= last:
            yield f"{where} is used by op {use.op}, expected {previous} to {last} (released_op)"
        previous = use.op
    yield from _anchor_faults(profile, storage, where)
    yield from _identity_faults(profile, storage, where)


def _anchor_faults(profile: Profile, storage: Storage, where: str) -> Iterator[str]:
    """Whether the anchors that find a storage allocated lie where the ops that do so say."""
    first_op, last_op = lifetime(storage, len(profile.ops))
    last_slot = len(profile.slots) - 1
    earliest = 0 if storage.allocated_op is None else _slot_before(profile, first_op - 1)
    latest = 0 if storage.allocated_op is None else _slot_before(profile, first_op) + 1
    if not earliest <= storage.allocated_slot <= latest:
        found = storage.allocated_slot
        yield f"{where}.allocated_slot is {found}, expected {earliest} to {latest} from its ops"
    earliest = last_slot if storage.released_op is None else _slot_before(profile, last_op)
    latest = last_slot if storage.released_op is None else _slot_before(profile, last_op + 1)
    if not earliest <= storage.released_slot <= latest:
        found = storage.released_slot
        yield f"{where}.released_slot is {found}, expected {earliest} to {latest} from its ops"
    if last_op < first_op and storage.released_slot < storage.allocated_slot:
        yield f"{where} is found allocated by no op and no anchor, expected a stretch of the step"
    previous = storage.allocated_slot - 1
    for touch in storage.touches:
        if not max(0, previous) <= touch.slot <= storage.released_slot:
            yield (
                f"{where} is touched in slot {touch.slot}, expected {previous} to "
                f"{storage.released_slot}"
            )
        previous = touch.slot


def _slot_before(profile: Profile, op: int) -> int:
    """The slot of an op; before the first op the first slot, after the last op the last slot."""
    if op < 0:
        return 0
    return profile.ops[op].slot if op < len(profile.ops) else len(profile.slots) - 1


def _identity_faults(profile: Profile, storage: Storage, where: str) -> Iterator[str]:
    """Whether replay can find the storage; if not, a reason must be stated, whatever its size."""
    if not storage.name:
        yield f"{where}.name is empty, expected how replay finds it"
    fault = kind_fault(where, storage)
    if fault is not None:
        yield fault
    if storage.shown_at is None and storage.left_out is None:
        yield f"{where} is shown by no anchor, expected left_out to say so"
    if storage.shown_at is None:
        return
    if storage.left_out is LeftOut.NEVER_SHOWN:
        yield f"{where} is left out as {storage.left_out.value!r}, but shown_at is set"
    if storage.shown_at >= len(profile.slots):
        yield f"{where}.shown_at is {storage.shown_at}, expected below {len(profile.slots)}"
    elif storage.shown_at > 0 and profile.slots[storage.shown_at].shows != storage.id:
        # What is owned at `begin` is found by its owner; all else by its anchor.
        yield f"{where} is not what the anchor of slot {storage.shown_at} shows, its shown_at"
