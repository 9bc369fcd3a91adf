"""The profile file: what one training step allocates, uses and takes, in program order.

A step is a row of ops. Anchors cut it into slots: slot `t` opens at anchor `t` and holds the ops
that run until anchor `t + 1`. The first anchor is `begin`, the last is `end`, whose slot is empty
and takes no time. Ops, slots and storages are numbered from 0 in program order, and those numbers
are the ids used everywhere else.

This module needs no torch: the planner reads profiles on machines without it.
"""

import hashlib
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import Field

from profiles.schema.files import Count, FileRecord, Microseconds, Rate, Record
from profiles.schema.link import MethodRate, Sharing
from profiles.schema.memory import slot_memory
from profiles.schema.model_description import ModelDescription

BEGIN, END = "begin", "end"
OPTIMIZER_PRE, OPTIMIZER_POST = "optimizer:pre", "optimizer:post"
PRE, PACK, UNPACK, GRAD, UPDATE = "pre:", "pack:", "unpack:", "grad:", "update:"
"""Keys of anchors, and what others begin with: see `profiles.hooks.anchors`."""
CPU, CUDA = "cpu", "cuda"
"""Kinds of device: the emulated accelerator, and a GPU."""


class StorageKind(StrEnum):
    """The class of a storage, decided by who owns it."""

    PARAMETER = "parameter"
    BUFFER = "buffer"
    OPTIMIZER_STATE = "optimizer_state"
    GRADIENT = "gradient"
    ACTIVATION = "activation"
    INPUT = "input"
    TEMPORARY = "temporary"


class Access(StrEnum):
    """What an op does to a storage."""

    READ = "read"
    WRITE = "write"


class LeftOut(StrEnum):
    """Why a storage can never be moved."""

    NEVER_SHOWN = "no anchor shows it"
    NOT_RESIZABLE = "its memory belongs to somebody else and cannot be resized"
    EXCHANGED = "workers exchange it while no op shows that"
    RESIZED = "its size changes during the step"


class Provenance(StrEnum):
    """Where a figure comes from."""

    MEASURED = "measured"
    ESTIMATED = "estimated"
    NOMINAL = "nominal"


class SlotTimes(StrEnum):
    """What a slot's duration was taken from."""

    BETWEEN_ANCHORS = "from its anchor to the next"
    SUM_OF_OPS = "the sum of its ops, each timed on its own"


class OpTrait(StrEnum):
    """What running an op a second time has to know of it, besides what it reads and writes."""

    RANDOM = "random"
    """It draws from a generator: the same numbers come from the same state only."""
    COLLECTIVE = "collective"
    """All workers run it together."""
    WAITS = "waits for the device"
    """The host reads what the device computed."""
    SHAPED_BY_DATA = "shape depends on data"
    """How much it makes depends on what it reads."""
    KEEPS_STATISTICS = "keeps statistics"
    """It writes buffers, the running statistics of what it normalizes, and does not read them."""
    UNKNOWN_EFFECTS = "unknown effects"
    """Its schema does not show whether it does more than make its results, or it reads memory of
    another device, of which a profile knows nothing."""


NEVER_AGAIN = frozenset(
    {OpTrait.COLLECTIVE, OpTrait.WAITS, OpTrait.SHAPED_BY_DATA, OpTrait.UNKNOWN_EFFECTS}
)
"""Traits of ops that are not run twice: other workers would have to join in, the host would wait,
the bytes could not be planned, or something else might happen besides."""


def found_name(name: str) -> str:
    """Names what a step finds, and drops, under a name that is another storage's later in it."""
    return f"{name}@begin"


class Use(Record):
    """One op touching a storage."""

    op: Count
    access: Access


class Touch(Record):
    """A slot in which a storage is needed although no op of the slot need be handed it.

    Its anchor asks for the bytes (a saved tensor is unpacked, a module is about to use its own
    parameters), or the address of the bytes is handed out. The access is what may be done to them.
    """

    slot: Count
    access: Access


class Op(Record):
    """One dispatched operator.

    Attributes:
        name: The operator, such as `aten.convolution.default`.
        duration_us: Its time: that of its kernels where there is one; else measured around its
            dispatch in the trace pass, or estimated.
        kernel_us: Time of its kernels on the device, from the device's own profiler, or of the op
            between two events where that shows none; None where an op is over when it returns.
        module: The leaf module entered last, for readers; empty before the first one.
        traits: What running it again has to know; None in older files, where nothing is known.
        workspace_bytes: What it takes while it runs and gives back, by the allocator's count; None
            where that was not counted: in older files, in estimates, on the emulated device.
    """

    name: str
    slot: Count
    duration_us: Microseconds
    kernel_us: Microseconds | None
    module: str
    traits: tuple[OpTrait, ...] | None = None
    workspace_bytes: Count | None = None


class Storage(Record):
    """One `torch.UntypedStorage`: the unit that is moved.

    [Note: the event line] Anchors and ops follow each other on one line: the anchor of slot 0, the
    ops of slot 0, the anchor of slot 1, and so on. A storage lives over a stretch of that line, so
    its life is given twice: by the ops that find it allocated, and by the anchors that do. Either
    stretch may be empty, with its end just before its begin: what is freed between an anchor and
    the next op is found by that anchor only. `END`'s anchor finds what the step leaves alive.

    Attributes:
        id: Its number, its position in `Profile.storages`.
        name: How replay finds it: `parameter:…`, `buffer:…`, `state:…`, `grad:…` by qualified name,
            `pack:17` for an activation; any unique text for storages that cannot be moved.
        kind: Who owns it.
        module: The leaf module entered last when it was first seen, for readers.
        allocated_op: The first op that finds it allocated, which is the op that made it if one did;
            None if it was alive when the step began.
        released_op: The last op that finds it allocated, -1 if none does before it is freed; None
            if it is alive when the step ends.
        allocated_slot: The first slot whose anchor finds it allocated; 0 if the step began with it.
        released_slot: The last slot whose anchor finds it allocated; that of `END` if it is alive
            when the step ends.
        shown_at: The first slot whose anchor shows it to the runtime; None if no anchor does.
        uses: Every op that touches it, in order.
        touches: Slots that need it besides, in order.
        left_out: Why it cannot be moved; None if it can.
        is_mask: Whether every op sees nothing but bools in it: then a bit holds what a byte does.
    """

    id: Count
    name: str
    kind: StorageKind
    size_bytes: Count
    module: str
    allocated_op: Count | None
    released_op: Annotated[int, Field(ge=-1)] | None
    allocated_slot: Count
    released_slot: Annotated[int, Field(ge=-1)]
    shown_at: Count | None
    uses: tuple[Use, ...]
    touches: tuple[Touch, ...]
    left_out: LeftOut | None
    is_mask: bool

    @property
    def lives_on(self) -> bool:
        """Whether it is alive both when the step begins and when it ends."""
        return self.allocated_op is None and self.released_op is None


class Slot(Record):
    """The stretch between two anchors.

    Attributes:
        anchor: Key of the anchor that opens it, such as `pre:enc.conv`, `pack:17`, `unpack:17`.
        shows: The storage this anchor shows to the runtime, if any.
        duration_us: Time from this anchor to the next; `Profile.slot_times` says how it was found.
            Measured inside the optimizer step, from `optimizer:pre` to `optimizer:post`, it holds
            what finding the updates takes: some microseconds of Python for each op.
        overhead_bytes: Bytes the device needs in this slot beyond the storages' own: what its
            allocator rounds up, and what kernels take and give back within an op.
    """

    anchor: str
    shows: Count | None
    duration_us: Microseconds
    overhead_bytes: Count


class Link(Record):
    """The way between device memory and host memory.

    Attributes:
        name: Its name in the hardware table, or `custom`.
        both_bytes_per_us: Rate of both directions together while both run; None if neither slows
            the other.
        latency_us: Fixed time per copy.
        engines: How fast copy kernels were measured; nothing where they were not, and then the copy
            engine carries everything.
        provenance: Measured, or nominal (a data sheet, the user, the emulator's setting).
    """

    name: str
    d2h_bytes_per_us: Rate
    h2d_bytes_per_us: Rate
    both_bytes_per_us: Rate | None
    latency_us: Microseconds
    engines: tuple[MethodRate, ...]
    provenance: Provenance


class Device(Record):
    """Where the step ran.

    Attributes:
        kind: The torch device type: `CPU` or `CUDA`.
        name: The processor's own name.
        compute_threads: Threads the ops ran on (the `cpu` device); 0 on others.
    """

    kind: str
    name: str
    memory_bytes: Count
    compute_threads: Count


class WorkloadSource(Record):
    """How to build the same training step again.

    Attributes:
        reference: A built-in name, `path/to/file.py:function`, or empty for a step recorded from
            Python.
        settings: The `--set` pairs.
        seed: The seed set before building.
    """

    reference: str
    settings: tuple[tuple[str, str], ...]
    seed: int


class Versions(Record):
    """What the profile was recorded with."""

    swapplan: str
    torch: str
    python: str


class Profile(FileRecord):
    """One training step, recorded.

    Attributes:
        workload: How to build the step again.
        model_fingerprint: Digest of parameter and buffer names, shapes and dtypes, and of the
            optimizer's class.
        link: The link the plan is made for unless another is chosen.
        sharing: What workers on one machine share of that link; None if that is unknown.
        versions: What it was recorded with.
        times: Whether the times were measured or estimated.
        slot_times: What the slots' durations were taken from. Without a pass from anchor to anchor
            (the step is estimated, or does not fit), time between ops is missing from them.
        warmup_steps: Steps run before recording, so that lazy state exists and times settle.
        settled: Whether step times had settled by then; true of an estimate.
        timed_steps: Steps behind each slot duration, which is their median.
        ops: In dispatched order.
        slots: In program order.
        storages: In order of first sight.
        model: What the fingerprint is a digest of; None in older files.
        without_checkpointing: Whether the model's own activation checkpointing was switched off.
    """

    FORMAT: ClassVar[str] = "swapplan-profile"
    VERSION: ClassVar[int] = 5
    REMAKE: ClassVar[str] = "plan profile"

    workload: WorkloadSource
    model_fingerprint: str
    device: Device
    link: Link
    sharing: Sharing | None
    versions: Versions
    times: Provenance
    slot_times: SlotTimes
    warmup_steps: Count
    settled: bool
    timed_steps: Count
    ops: tuple[Op, ...]
    slots: tuple[Slot, ...] = Field(min_length=2)
    storages: tuple[Storage, ...]
    model: ModelDescription | None = None
    without_checkpointing: bool = False

    @property
    def step_us(self) -> float:
        """Time of the whole step with nothing moved: the sum of its slots."""
        return sum(slot.duration_us for slot in self.slots)

    @cached_property
    def peak_bytes(self) -> int:
        """Most bytes that the device holds during the step with nothing moved."""
        return max(slot.resident_bytes for slot in slot_memory(self))

    @property
    def growth_bytes(self) -> int:
        """How much more the step leaves alive than it found; 0 for a step that repeats."""
        left = sum(s.size_bytes for s in self.storages if s.released_op is None)
        return left - sum(s.size_bytes for s in self.storages if s.allocated_slot == 0)

    def fingerprint(self) -> str:
        """Digest of the whole content; a plan carries its profile's."""
        # Without what older files do not have, so that theirs stay what they were.
        left_out: dict[str, Any] = {"model": True} if self.model is None else {}
        if not self.without_checkpointing:
            left_out["without_checkpointing"] = True
        of_ops = {"traits", "workspace_bytes"}
        unknown = {name for name in of_ops if all(getattr(op, name) is None for op in self.ops)}
        if unknown:
            left_out["ops"] = {"__all__": unknown}
        return hashlib.sha256(self.model_dump_json(exclude=left_out).encode()).hexdigest()
