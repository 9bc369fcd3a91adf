"""The plan: what moves when, for which budget, and how good that is.

A plan stands alone: with no profile at hand it can be simulated, verified, drawn and replayed. Its
records are plain: `planner.plan.verify.verified` says whether they hold together.
Anchors are numbered as the slots they open; storages keep their profile's ids and names.
"""

from enum import StrEnum
from functools import cached_property
from typing import ClassVar

from pydantic import AliasChoices, Field

from profiles.schema.files import Count, FileRecord, Microseconds, Record
from profiles.schema.link import CopyMethod, host_size_bytes
from profiles.schema.model_description import ModelDescription
from profiles.schema.profile import Device, Link, Provenance, StorageKind, WorkloadSource


class Boundary(StrEnum):
    """Where storages that live from step to step are when one ends and the next begins."""

    PERIODIC = "periodic"
    """Wherever it is best: a swap may wrap round the step boundary, and steps repeat."""
    RESIDENT = "resident"
    """On the device: every step is planned on its own."""


class Without(StrEnum):
    """Which of the two ways to have bytes back a plan is not to use."""

    NOTHING = "nothing"
    """It may use both."""
    RECOMPUTE = "recompute"
    """It swaps: nothing is dropped and rebuilt."""
    SWAP = "swap"
    """It drops and rebuilds: nothing is copied to the host."""


class Proof(StrEnum):
    """What the solver proved about its own model (not about the simulated plan)."""

    OPTIMAL = "optimal"
    """The ILP was solved to its end, or the plan meets the bound of its relaxation."""
    FEASIBLE = "feasible"
    """It was stopped before."""
    NOT_NEEDED = "not needed"


class BoundSource(StrEnum):
    """Where the bound on recompute and stall comes from."""

    RELAXATION = "LP relaxation"
    """Bytes that flow: the loose bound is the best known."""
    WHOLE_STORAGES = "ILP of whole storages"
    """What the solver proved about the ILP by the time it ended."""
    TRIVIAL = "no stall is below 0"
    """There was no relaxation to solve, or no time to solve it in."""


class PlannedStorage(Record):
    """A storage the runtime must know: it is moved, or an anchor shows it.

    Attributes:
        id: Its id in the profile.
        name: How replay finds it (see `profiles.schema.profile.Storage`).
        kind: Who owns it.
        size_bytes: Its bytes.
        module: The leaf module it was first seen in, for readers.
        is_mask: It holds nothing but bools.
    """

    id: Count
    name: str
    kind: StorageKind
    size_bytes: Count
    module: str
    is_mask: bool


class PlannedSlot(Record):
    """A slot as the plan sees it.

    Attributes:
        anchor: Key of the anchor that opens it.
        shows: Id of the storage this anchor shows, if any.
        duration_us: Time of its ops with nothing moved, those that are run again among them.
        resident_bytes: Most bytes allocated at any of its ops with nothing moved, and without what
            is dropped.
        peak_op: The op that needs the most, for readers.
        recompute_us: Time of the ops that are run again, of `duration_us`.
        without_bytes: Most bytes allocated at any of its ops without the plan; None if those are
            `resident_bytes`.
    """

    anchor: str
    shows: Count | None
    duration_us: Microseconds
    resident_bytes: Count
    peak_op: str
    recompute_us: Microseconds = 0.0
    without_bytes: Count | None = None


class Swap(Record):
    """One swap of one storage, to the host and back, inside one of its gaps.

    The four anchors are slot ids, in the order swap_out <= release < swap_in <= await. A swap that
    wraps goes on in the next step: from some anchor on its slot ids count from that step's begin.

    Attributes:
        storage: Id of the storage.
        swap_out_slot: At this slot's anchor the copy to the host is issued.
        release_slot: Here compute waits for that copy, and the device bytes are given back.
        swap_in_slot: Here the device bytes are taken again and the copy back is issued.
        await_slot: Here compute waits for the copy back; this slot uses the storage again.
        host_offset_bytes: Where in the host pool the bytes wait.
        clean: Nothing is copied to the host: the copy that the storage's swap before this one left
            there is still true, since nothing has written the storage in between. Swap-out and
            release are one anchor.
        engine: What carries its copies, chosen from measured rates; the same for all swaps of one
            storage. Neighbours that the batch kernel carries go in one launch (see
            `planner.plan.copy_times`).
    """

    storage: Count
    swap_out_slot: Count
    release_slot: Count
    swap_in_slot: Count
    await_slot: Count
    host_offset_bytes: Count
    clean: bool
    engine: CopyMethod

    @property
    def wraps(self) -> bool:
        """Whether the swap ends in the step after the one it began in."""
        return self.await_slot < self.swap_out_slot

    def slots_after_out(self, slot: int, slot_count: int) -> int:
        """Returns how many slots after the swap-out one of this swap's other anchors comes."""
        return (slot - self.swap_out_slot) % slot_count


class OpWorkspace(Record):
    """What an op takes while it runs and gives back, for a step that does not follow the plan.

    Attributes:
        name: The operator.
        size_bytes: The most that any of its calls in the profile takes, by the allocator's count.
    """

    name: str
    size_bytes: Count


class RecipeOp(Record):
    """An op that the step has run and that is run again.

    Attributes:
        op: Its id in the profile.
        name: The operator.
        slot: The slot it ran in.
        position: How many of that slot's ops ran before it.
    """

    op: Count
    name: str
    slot: Count
    position: Count


class Drop(Record):
    """A storage whose device bytes are given back with no copy, until it is rebuilt.

    Attributes:
        storage: Id of the storage.
        slot: At this slot's anchor they are given back.
    """

    storage: Count
    slot: Count


class Rebuild(Record):
    """Storages that are filled again by running the ops that wrote them.

    [Note: recipes] The ops run in program order on fresh memory. What one of them makes, the later
    ones read there; everything else they read in place, where it is since the op ran for the first
    time: alive, resident, and not written meanwhile. So the ops that make what is gone by then are
    part of the recipe. What they make besides the dropped storages is freed after the last of them
    that needs it. The numbers among the ops' arguments may change from step to step: a plan names
    ops, and the runtime notes their arguments in each step.

    Attributes:
        slot: At this slot's anchor they are run, after everything else that happens there.
        ops: What is run, in program order.
        drops: What they fill again.
        recompute_us: Time of the ops, of the slot's.
    """

    slot: Count
    ops: tuple[RecipeOp, ...]
    drops: tuple[Drop, ...]
    recompute_us: Microseconds = 0.0


def optimality_gap(over_us: float, best_us: float) -> float:
    """Returns how far a step may be from the best, as a share of that: 0 where it takes no time.

    Args:
        over_us: What it takes beyond the best.
        best_us: What no step takes less than.
    """
    return max(0.0, over_us) / best_us if best_us > 0 else 0.0


class Certificate(Record):
    """How good the plan is, and how that is known.

    Attributes:
        peak_without_bytes: Peak with nothing moved, from the profile.
        peak_bytes: Peak under the plan, by walking the anchors in program order.
        d2h_bytes: Bytes copied to the host per step, as they go over the link; clean swaps copy
            none.
        h2d_bytes: Bytes moved back per step, likewise.
        compute_us: Step time with nothing moved, from the profile.
        recompute_us: Time per step of the ops that are run again, from the profile.
        simulated_stall_us: Time compute waits per step once steps repeat, simulated with
            whole-storage FIFO copies.
        loose_bound_beyond_us: No plan takes less time than this beyond `compute_us`, recompute and
            stall together, by the LP relaxation with bytes that flow.
        bound_beyond_us: Likewise: the tightest bound known.
        bound_source: Why not: the ILP or its relaxation (`planner.ilp.model`), or arithmetic alone.
        solver: The solver's name.
        proof: What it proved about the model.
        solve_seconds: Wall time of planning.
    """

    peak_without_bytes: Count
    peak_bytes: Count
    d2h_bytes: Count
    h2d_bytes: Count
    compute_us: Microseconds
    recompute_us: Microseconds = 0.0
    simulated_stall_us: Microseconds
    # The older names are from when nothing was recomputed.
    loose_bound_beyond_us: Microseconds = Field(
        validation_alias=AliasChoices("loose_bound_beyond_us", "loose_bound_stall_us")
    )
    bound_beyond_us: Microseconds = Field(
        validation_alias=AliasChoices("bound_beyond_us", "bound_stall_us")
    )
    bound_source: BoundSource
    solver: str
    proof: Proof
    solve_seconds: float = Field(ge=0, allow_inf_nan=False)

    @property
    def beyond_us(self) -> float:
        """What a step takes beyond its compute: recompute and stall, simulated."""
        return self.recompute_us + self.simulated_stall_us

    @property
    def simulated_step_us(self) -> float:
        """Step time under the plan, simulated."""
        return self.compute_us + self.beyond_us

    @property
    def optimality_gap(self) -> float:
        """How far the plan may be from the best, as a share of the best step time."""
        best_us = self.compute_us + self.bound_beyond_us
        return optimality_gap(self.simulated_step_us - best_us, best_us)


class Plan(FileRecord):
    """A swap plan.

    Attributes:
        profile_fingerprint: Digest of the profile it was made from.
        model_fingerprint: Digest of the model and optimizer it is for.
        workload: How to build the training step again.
        times: Whether the profile's times were measured or estimated.
        device: Where the profile was recorded.
        link: The link it was planned for.
        boundary: Whether swaps may wrap round the step boundary.
        min_size_bytes: Smaller storages were not considered.
        budget_bytes: Device bytes it must stay within.
        host_budget_bytes: Host bytes it must stay within; None for no limit, 0 if it may not swap.
        host_pool_bytes: Bytes of the host pool it uses.
        storages: Those that move or that an anchor shows, by id.
        slots: The step.
        swaps: What moves when, in order of swap-out.
        rebuilds: What is dropped and rebuilt, in the order of rebuilding.
        certificate: How good it is.
        model: The model and optimizer it is for; None in older files.
        without: What it was not to use; its bounds are on plans that use the rest.
        without_checkpointing: Whether its steps run with the model's own activation checkpointing
            switched off, as the recorded one did.
        workspaces: Of the ops that take any, by name; none are known where no allocator was asked.
    """

    FORMAT: ClassVar[str] = "swapplan-plan"
    VERSION: ClassVar[int] = 3
    REMAKE: ClassVar[str] = "plan solve"

    profile_fingerprint: str
    model_fingerprint: str
    workload: WorkloadSource
    times: Provenance
    device: Device
    link: Link
    boundary: Boundary
    min_size_bytes: Count
    budget_bytes: Count
    host_budget_bytes: Count | None
    host_pool_bytes: Count
    storages: tuple[PlannedStorage, ...]
    slots: tuple[PlannedSlot, ...] = Field(min_length=2)
    swaps: tuple[Swap, ...]
    certificate: Certificate
    rebuilds: tuple[Rebuild, ...] = ()
    model: ModelDescription | None = None
    # Older files are from when nothing was recomputed.
    without: Without = Without.RECOMPUTE
    without_checkpointing: bool = False
    workspaces: tuple[OpWorkspace, ...] = ()

    @cached_property
    def by_id(self) -> dict[int, PlannedStorage]:
        """The storages, by id."""
        return {storage.id: storage for storage in self.storages}

    def storage(self, storage_id: int) -> PlannedStorage:
        """Returns the storage with this id."""
        return self.by_id[storage_id]

    @cached_property
    def sizes_bytes(self) -> dict[int, int]:
        """Bytes that each storage takes on the device, by id."""
        return {storage.id: storage.size_bytes for storage in self.storages}

    @cached_property
    def engines(self) -> dict[int, CopyMethod]:
        """What carries storages that the copy engine does not, by id."""
        return {s.storage: s.engine for s in self.swaps if s.engine is not CopyMethod.DMA}

    @cached_property
    def host_sizes_bytes(self) -> dict[int, int]:
        """Bytes that each storage takes in the host pool, by id."""
        return {
            s.id: host_size_bytes(self.engines.get(s.id, CopyMethod.DMA), s.size_bytes)
            for s in self.storages
        }

    @property
    def used_host_bytes(self) -> int:
        """Bytes of the host pool up to the end of the last that a swap uses."""
        sizes = self.host_sizes_bytes
        return max((s.host_offset_bytes + sizes[s.storage] for s in self.swaps), default=0)
