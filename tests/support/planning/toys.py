"""Small profiles written by hand or by rule, to plan for and to check plans against.

A toy has one op per slot unless it says otherwise, so op ids and slot ids are the same and a use
is written as a slot number. `begin` opens slot 0 and `end` is added by itself:

    toy(10, 10, 10, storages=[activation("x", 40, 0, 2)])

is a step of three slots of 10 us, in which slot 0 makes 40 bytes, which the anchor of slot 1 shows,
and slot 2 reads them. A copy of one byte takes 1 us each way unless a link says otherwise.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from profiles.hardware.links import nominal_link
from profiles.schema.checks import verified
from profiles.schema.profile import (
    BEGIN,
    END,
    Access,
    Device,
    LeftOut,
    Link,
    Op,
    OpTrait,
    Profile,
    Provenance,
    Slot,
    SlotTimes,
    Storage,
    StorageKind,
    Touch,
    Use,
    Versions,
    WorkloadSource,
)


@dataclass(frozen=True, kw_only=True)
class ToyStorage:
    """A storage before it has a number; ops are ids, None is the edge of the step.

    It is freed right after `released_op`, or so many anchors later. If no op made it, anchors may
    find it before `allocated_op` does. Slots that touch it read it; those that open it may write.
    """

    name: str
    size_bytes: int
    kind: StorageKind
    uses: tuple[int, ...]
    writes: frozenset[int]
    allocated_op: int | None
    released_op: int | None
    shown_at: int | None
    left_out: LeftOut | None = None
    lingers_slots: int = 0
    early_slots: int = 0
    touched_slots: tuple[int, ...] = ()
    opened_slots: tuple[int, ...] = ()


def activation(
    name: str, size_bytes: int, *uses: int, released_op: int | None = None, shown_at: int = -1
) -> ToyStorage:
    """Made by its first use, gone after its last; shown by the anchor after its first use."""
    return ToyStorage(
        name=name,
        size_bytes=size_bytes,
        kind=StorageKind.ACTIVATION,
        uses=uses,
        writes=frozenset(uses[:1]),
        allocated_op=uses[0],
        released_op=uses[-1] if released_op is None else released_op,
        shown_at=shown_at,
    )


def resident(
    name: str,
    size_bytes: int,
    *uses: int,
    kind: StorageKind = StorageKind.PARAMETER,
    writes: Iterable[int] = (),
) -> ToyStorage:
    """Alive over the whole step: a parameter, a kept gradient, an optimizer state."""
    return ToyStorage(
        name=name,
        size_bytes=size_bytes,
        kind=kind,
        uses=uses,
        writes=frozenset(writes),
        allocated_op=None,
        released_op=None,
        shown_at=0,
    )


def gradient(name: str, size_bytes: int, *uses: int) -> ToyStorage:
    """Made by its first use and alive when the step ends."""
    made = activation(name, size_bytes, *uses)
    return replace(made, kind=StorageKind.GRADIENT, released_op=None)


def fixed(
    name: str, size_bytes: int, *uses: int, left_out: LeftOut = LeftOut.NEVER_SHOWN
) -> ToyStorage:
    """Cannot be moved: a workspace, or memory that another library owns."""
    made = activation(name, size_bytes, *uses)
    return replace(made, kind=StorageKind.TEMPORARY, shown_at=None, left_out=left_out)


def toy_link(
    d2h_bytes_per_us: float = 1.0, h2d_bytes_per_us: float = 1.0, latency_us: float = 0.0
) -> Link:
    """One byte per microsecond each way unless another rate is given: bytes are copy times."""
    return nominal_link("toy", d2h_bytes_per_us, h2d_bytes_per_us, latency_us=latency_us)


def toy(
    *slots_us: float,
    storages: Sequence[ToyStorage],
    link: Link | None = None,
    ops: Sequence[int] | None = None,
    overheads_bytes: Sequence[int] | None = None,
    traits: Sequence[tuple[OpTrait, ...] | None] | None = None,
) -> Profile:
    """A valid profile.

    Args:
        slots_us: Duration of each slot but `end`.
        storages: What lives in it; ids follow this order.
        link: The link it was recorded for; `toy_link()` if None.
        ops: Ops in each slot but `end`; one each if None.
        overheads_bytes: What each slot needs beyond its storages, `end` included; 0 if None.
        traits: Those of each op; if None, nothing is known of any.
    """
    counts = ops if ops is not None else [1] * len(slots_us)
    slot_of_op = [t for t, count in enumerate(counts) for _ in range(count)]
    numbered = tuple(_numbered(i, s, slot_of_op, len(slots_us)) for i, s in enumerate(storages))
    profile = Profile(
        format=Profile.FORMAT,
        version=Profile.VERSION,
        created_by="toys",
        workload=WorkloadSource(reference="", settings=(), seed=0),
        model_fingerprint="toy",
        device=Device(kind="cpu", name="toy", memory_bytes=10**6, compute_threads=1),
        link=link or toy_link(),
        sharing=None,
        versions=Versions(swapplan="0", torch="0", python="0"),
        times=Provenance.MEASURED,
        slot_times=SlotTimes.BETWEEN_ANCHORS,
        warmup_steps=0,
        settled=True,
        timed_steps=1,
        ops=tuple(
            Op(
                name=f"op{k}",
                slot=t,
                duration_us=slots_us[t] / counts[t],
                module=f"m{t}",
                kernel_us=None,
                traits=None if traits is None else traits[k],
            )
            for k, t in enumerate(slot_of_op)
        ),
        slots=_slots(slots_us, overheads_bytes or [0] * (len(slots_us) + 1), numbered),
        storages=numbered,
    )
    return verified(profile)


def _numbered(
    number: int, storage: ToyStorage, slot_of_op: Sequence[int], slot_count: int
) -> Storage:
    shown_at = storage.shown_at
    if shown_at == -1:
        shown_at = slot_of_op[storage.uses[0]] + 1
    allocated, released = storage.allocated_op, storage.released_op
    lingers = 0 if released is None else storage.lingers_slots
    # Before the first op and after the last one.
    slots = {-1: -1, len(slot_of_op): slot_count, **dict(enumerate(slot_of_op))}
    return Storage(
        id=number,
        name=storage.name,
        kind=storage.kind,
        size_bytes=storage.size_bytes,
        module="",
        allocated_op=storage.allocated_op,
        released_op=storage.released_op,
        allocated_slot=0 if allocated is None else slots[allocated] + 1 - storage.early_slots,
        released_slot=slot_count if released is None else slots[released] + lingers,
        shown_at=shown_at,
        uses=tuple(
            Use(op=op, access=Access.WRITE if op in storage.writes else Access.READ)
            for op in storage.uses
        ),
        touches=_touches(storage),
        left_out=storage.left_out,
        is_mask=False,
    )


def _touches(storage: ToyStorage) -> tuple[Touch, ...]:
    slots = sorted({*storage.touched_slots, *storage.opened_slots})
    return tuple(
        Touch(slot=slot, access=Access.WRITE if slot in storage.opened_slots else Access.READ)
        for slot in slots
    )


def _slots(
    slots_us: Sequence[float], overheads_bytes: Sequence[int], storages: Sequence[Storage]
) -> tuple[Slot, ...]:
    shown: dict[int, int] = {}
    for storage in storages:
        if storage.allocated_op is not None and storage.shown_at is not None:
            if storage.shown_at in shown:
                raise ValueError(f"slot {storage.shown_at} shows two storages: set shown_at")
            shown[storage.shown_at] = storage.id
    last = len(slots_us)
    names = [BEGIN, *(f"anchor:{t}" for t in range(1, last)), END]
    return tuple(
        Slot(
            anchor=names[t],
            shows=shown.get(t),
            duration_us=float((*slots_us, 0.0)[t]),
            overhead_bytes=overheads_bytes[t],
        )
        for t in range(last + 1)
    )


SLOW = toy_link(0.01, 0.01)
"""50 bytes take 5000 us each way, of which a slot of the sandwich hides 1000."""


def sandwich() -> Profile:
    """50 bytes, made first and read last, idle while 100 bytes of work need room in slot 2."""
    return toy(*[1000.0] * 5, storages=[activation("pack:0", 50, 0, 4), fixed("op:2", 100, 2)])


def unet_like(levels: int, *, size_bytes: int = 1024, link: Link | None = None) -> Profile:
    """A step of a U-Net: few large storages, nested last-in first-out gaps, skip connections.

    Forward goes down `levels` levels and up again, backward retraces it. Level `l` holds a quarter
    of the bytes of the level above it and takes time in proportion to them.
    """
    sizes = [max(1, size_bytes // 4**level) for level in (*range(levels), *reversed(range(levels)))]
    forward = len(sizes)
    storages = []
    for i, size in enumerate(sizes):
        # A level's way down is read again by the same level's way up: the skip connection.
        skip = [forward - 1 - i] if i < levels - 1 else []
        following = [i + 1] if i + 1 < forward else []
        back = {2 * forward - 1 - use for use in (i, *following, *skip)}
        uses = sorted({i, *following, *skip, *back})
        storages.append(activation(f"pack:{i}", size, *uses))
        storages.append(fixed(f"workspace:{i}", size // 2 + 1, 2 * forward - 1 - i))
    durations = [float(size) for size in sizes] + [2.0 * size for size in reversed(sizes)]
    return toy(*durations, storages=storages, link=link)


def transformer_like(layers: int, *, size_bytes: int = 64, link: Link | None = None) -> Profile:
    """A step of a transformer: many equal blocks, and parameters as heavy as activations.

    A layer is two blocks (attention and feed-forward). Each makes an activation forward and reads
    it backward; each layer has one parameter, its gradient kept from the step before, and its
    optimizer state, which only the optimizer's slots touch.
    """
    blocks = 2 * layers
    storages = [
        activation(f"pack:{i}", (1 + i % 2) * size_bytes, i, 2 * blocks - 1 - i)
        for i in range(blocks)
    ]
    for layer in range(layers):
        forward = (2 * layer, 2 * layer + 1)
        back = (2 * blocks - 2 - 2 * layer, 2 * blocks - 1 - 2 * layer)
        update = 2 * blocks + layer
        grad, state = StorageKind.GRADIENT, StorageKind.OPTIMIZER_STATE
        storages += [
            resident(f"parameter:{layer}", size_bytes, *forward, *back, update, writes=[update]),
            resident(f"grad:{layer}", size_bytes, *back, update, kind=grad, writes=back),
            resident(f"state:{layer}", 2 * size_bytes, update, kind=state, writes=[update]),
        ]
    durations = [2.0 * size_bytes] * blocks + [4.0 * size_bytes] * blocks + [size_bytes] * layers
    return toy(*durations, storages=storages, link=link)
