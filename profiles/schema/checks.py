"""The checks that every profile passes, however it was made: recorded, estimated, or read.

Uses lie inside lifetimes, ops and slots follow each other, times add up, and every storage can be
found at replay or says why it never will be.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from profiles.schema.errors import FileError
from profiles.schema.files import MAX_COUNT, MAX_US, one_line
from profiles.schema.memory import lifetime
from profiles.schema.model_description import ModelDescription
from profiles.schema.profile import (
    BEGIN,
    END,
    Device,
    LeftOut,
    Profile,
    SlotTimes,
    Storage,
    StorageKind,
)

MAX_THREADS = 1024
"""More than any processor has; a thread pool that cannot be had ends the process."""
MIN_STEP_US = 1e-3
"""A nanosecond: figures are shares of the step."""

OWNED_BY = {
    "parameter": StorageKind.PARAMETER,
    "buffer": StorageKind.BUFFER,
    "state": StorageKind.OPTIMIZER_STATE,
    "grad": StorageKind.GRADIENT,
}
"""What the first word of a qualified name says of its kind."""


ROUNDING = 1e-9
"""How far a sum of times may be off by the order of its terms."""


def verified(profile: Profile) -> Profile:
    """Returns a profile that was built.

    Raises:
        FileError: Its records contradict each other.
    """
    fault = first_fault(profile)
    if fault is not None:
        raise FileError(f"no such profile: {one_line(fault)}. Check the figures given.")
    return profile


def first_fault(profile: Profile) -> str | None:
    """Says what is inconsistent between the records of a profile; None if nothing is."""
    return next(_faults(profile), None)


def anchor_faults(anchors: Sequence[str]) -> Iterator[str]:
    """Yields what is wrong with the anchors that open the slots of a profile or a plan."""
    if anchors[0] != BEGIN or anchors[-1] != END:
        yield f"slots run from {anchors[0]!r} to {anchors[-1]!r}, expected {BEGIN!r} to {END!r}"
    for anchor in _doubles(anchors):
        yield f"two slots open at anchor {anchor!r}, expected one"


def same_name_faults(names: Iterable[str]) -> Iterator[str]:
    """Yields names of storages that are there more than once."""
    for name in _doubles(names):
        yield f"two storages are named {name!r}, expected one"


def _doubles(texts: Iterable[str]) -> Iterator[str]:
    return (text for text, count in Counter(texts).items() if count > 1)


def kind_faults(where: str, name: str, kind: StorageKind) -> Iterator[str]:
    """Yields that a storage's name is that of another kind."""
    word, colon, qualified = name.partition(":")
    expected = OWNED_BY.get(word) if colon else None
    if expected is None:
        return
    if kind is not expected:
        yield f"{where}.kind is {kind.value!r}, expected {expected.value!r} as {name!r} says"
    elif not qualified:
        yield f"{where}.name is {name!r}, expected the name of a {expected.value} in it"


def proportion_faults(
    device: Device,
    model: ModelDescription | None,
    model_fingerprint: str,
    durations_us: Iterable[float],
    sizes_bytes: Iterable[int],
) -> Iterator[str]:
    """Yields what a profile or a plan says of its machine, model and sums that cannot be.

    The model is None if it is not described.
    """
    if device.compute_threads > MAX_THREADS:
        yield f"device.compute_threads is {device.compute_threads}, expected at most {MAX_THREADS}"
    found = model_fingerprint if model is None else model.fingerprint()
    if found != model_fingerprint:
        yield (
            f"model_fingerprint is {model_fingerprint!r}, expected {found!r} from the model "
            "described"
        )
    # No machine reaches such a sum, though each of its terms might be right.
    step_us = sum(durations_us)
    if not MIN_STEP_US <= step_us <= MAX_US:
        yield f"slots take {step_us} us in all (duration_us), expected {MIN_STEP_US} to {MAX_US}"
    all_bytes = sum(sizes_bytes)
    if all_bytes > MAX_COUNT:
        yield f"storages hold {all_bytes} bytes in all (size_bytes), expected at most {MAX_COUNT}"


def _faults(profile: Profile) -> Iterator[str]:
    yield from _slot_faults(profile)
    yield from proportion_faults(
        profile.device,
        profile.model,
        profile.model_fingerprint,
        (slot.duration_us for slot in profile.slots),
        (
            max(slot.overhead_bytes for slot in profile.slots),
            *(storage.size_bytes for storage in profile.storages),
        ),
    )
    yield from _op_faults(profile)
    for position, storage in enumerate(profile.storages):
        if storage.id != position:
            yield f"storages[{position}].id is {storage.id}, expected {position}"
        yield from _storage_faults(profile, storage)
    yield from same_name_faults(storage.name for storage in profile.storages)


def _slot_faults(profile: Profile) -> Iterator[str]:
    yield from anchor_faults([slot.anchor for slot in profile.slots])
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
    begin, end = (0, 0), (len(profile.slots) - 1, len(profile.slots) - 1)
    if storage.allocated_op is not None:
        begin = _slot_before(profile, first_op - 1), _slot_before(profile, first_op) + 1
    if storage.released_op is not None:
        end = _slot_before(profile, last_op), _slot_before(profile, last_op + 1)
    for field, found, (earliest, latest) in (
        ("allocated_slot", storage.allocated_slot, begin),
        ("released_slot", storage.released_slot, end),
    ):
        if not earliest <= found <= latest:
            yield f"{where}.{field} is {found}, expected {earliest} to {latest} from its ops"
    if last_op < first_op and storage.released_slot < storage.allocated_slot:
        yield f"{where} is found allocated by no op and no anchor, expected a stretch of the step"
    previous = storage.allocated_slot - 1
    for touch in storage.touches:
        if not max(0, previous) <= touch.slot <= storage.released_slot:
            found, latest = touch.slot, storage.released_slot
            yield f"{where} is touched in slot {found}, expected {previous} to {latest}"
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
    yield from kind_faults(where, storage.name, storage.kind)
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
