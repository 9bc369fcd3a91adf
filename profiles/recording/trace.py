"""The trace of one step: a dispatch mode that sees every op, every storage and every anchor."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch._ops import OpOverload

from profiles.hooks.anchors import kind_of
from profiles.hooks.dispatch import (
    OpMode,
    is_collective,
    storages_in,
    storages_of,
    tensors_of,
    traits_of,
)
from profiles.hooks.live_storages import LiveStorages
from profiles.hooks.named_storages import Owned, owned_storages, storages_by_module
from profiles.hooks.plain_tensors import has_storage, is_movable, is_shared_memory
from profiles.hooks.workload import Training, reached_tensors
from profiles.schema.profile import (
    GRAD,
    PACK,
    PRE,
    UNPACK,
    Access,
    LeftOut,
    Op,
    OpTrait,
    Storage,
    StorageKind,
    Touch,
    Use,
    found_name,
)
from profiles.schema.units import NS_PER_US


class _Owner(NamedTuple):
    """The name and class of an owned storage, without keeping it alive."""

    name: str
    kind: StorageKind


@dataclass(eq=False, kw_only=True)
class _Sighting:
    """What is known of a storage in one step; becomes a `Storage` when the step is over.

    `None` stands for the edges of the step, as in `profiles.schema.profile.Storage`.
    """

    step: int
    id: int
    size_bytes: int
    module: str
    resizable: bool
    allocated_op: int | None
    allocated_slot: int
    owner: _Owner | None = None
    came_from_outside: bool = False
    exchanged: bool = False
    resized: bool = False
    shown_by: str | None = None
    shown_at: int | None = None
    released_op: int | None = None
    released_slot: int | None = None
    uses: list[Use] = field(default_factory=list)
    touches: list[Touch] = field(default_factory=list)
    dtypes: set[torch.dtype] = field(default_factory=set)

    def lives_between_points(self) -> bool:
        """Whether no anchor and no op finds it allocated."""
        if self.released_op is None or self.released_slot is None:
            return False
        met_op = self.released_op >= (self.allocated_op or 0)
        return not met_op and self.released_slot < self.allocated_slot

    def storage(self, position: int, taken: set[str], last_slot: int) -> Storage:
        """Returns the storage of the step that is over; its name is added to those taken before."""
        name, kind, shown_at = self._identity(position)
        if name in taken:
            # Replay finds the first storage of a name only.
            name, shown_at = f"{name}@{position}", None
        taken.add(name)
        if self.exchanged and shown_at:
            # No anchor says so (`StepTrace.storages`).
            shown_at = None
        reasons = {
            LeftOut.NOT_RESIZABLE: not self.resizable,
            LeftOut.EXCHANGED: self.exchanged,
            LeftOut.RESIZED: self.resized,
            LeftOut.NEVER_SHOWN: shown_at is None,
        }
        return Storage(
            id=position,
            name=name,
            kind=kind,
            size_bytes=self.size_bytes,
            module=self.module,
            allocated_op=self.allocated_op,
            released_op=self.released_op,
            allocated_slot=self.allocated_slot,
            released_slot=last_slot if self.released_slot is None else self.released_slot,
            shown_at=shown_at,
            uses=tuple(self.uses),
            touches=tuple(dict.fromkeys(self.touches)),
            left_out=next((reason for reason, holds in reasons.items() if holds), None),
            is_mask=self.dtypes == {torch.bool},
        )

    def _identity(self, position: int) -> tuple[str, StorageKind, int | None]:
        """Returns the name by which replay finds a storage, its kind, and the slot that shows it.

        [Note: names of storages] Replay finds a storage by its owner if it is held at `begin`, else
        by the anchor that first shows it (`runtime.replay.lookup` is the inverse). The other names
        are no way to find it; such a storage cannot be moved.
        """
        owner, shown = self.owner, self.shown_by
        if owner is not None and self.allocated_op is None:
            if self.released_op is None:
                return owner.name, owner.kind, 0
            # Dropped during the step, as `zero_grad` drops gradients: what replay finds under this
            # name is its successor.
            return found_name(owner.name), owner.kind, None
        if shown is not None:
            kind = StorageKind.INPUT if self.came_from_outside else StorageKind.ACTIVATION
            if shown.startswith(GRAD):
                kind = StorageKind.GRADIENT
            return shown, kind if owner is None else owner.kind, self.shown_at
        if owner is not None:
            return owner.name, owner.kind, None
        if self.exchanged and self.allocated_op is None and self.released_op is None:
            # Workers sum gradients in it.
            return f"bucket:{position}", StorageKind.GRADIENT, None
        if self.came_from_outside and self.uses:
            return f"input:{position}", StorageKind.INPUT, None
        if self.came_from_outside:
            return f"kept:{position}", StorageKind.TEMPORARY, None
        return f"op:{self.allocated_op}:{position}", StorageKind.TEMPORARY, None


class StepTrace(OpMode):
    """Records steps while active, the last one for good. It is their anchor listener, too.

    [Note: the step before] A step finds alive what earlier steps left: gradients that it is about
    to drop, a batch that was fetched ahead, the loss that the caller still holds. So the step
    before is traced as well, and what is alive when `begin_step` is called again is known.

    [Note: storages that no op made] Some storages come to life unseen: `torch.tensor` and NumPy
    make them without an op. They count from the op or anchor that first shows them, here and by
    the accountant of a replay (`runtime.storage.accountant`).
    """

    def __init__(
        self,
        device: torch.device,
        size_of: Callable[[torch.UntypedStorage], int] = torch.UntypedStorage.nbytes,
    ) -> None:
        """Makes an empty trace of storages on one device.

        `size_of` returns a storage's size in bytes, also of one that is emptied just now.
        """
        super().__init__()
        self.ops: list[Op] = []
        self.anchors: list[str] = []
        self.shows: list[int | None] = []
        self._device = device
        self._size_of = size_of
        self._step = 0
        self._sightings: list[_Sighting] = []
        self._live: LiveStorages[_Sighting] = LiveStorages(self._on_release)
        self._used_by_module: dict[str, list[_Sighting]] = {}
        self._unpacked: dict[str, _Sighting] = {}
        self._module = ""
        self._in_op = False

    def begin_step(self, training: Training, step: object) -> None:
        """Forgets the step before, except for what it left alive.

        What the model and the optimizer hold and what else `step`, a function or a frame, can reach
        is alive whether an op uses it or not, and a module's forward uses its own parameters and
        buffers whether an op is handed them or not.
        """
        owned = _owned(training)
        reached = self._reached(training.model, training.optimizer, step)
        of_modules = storages_by_module(training.model)
        self.ops, self.anchors, self.shows = [], [], []
        self._step += 1
        self._sightings = []
        self._used_by_module, self._unpacked = {}, {}
        self._module = ""
        left_alive = list(self._live)
        for owner in owned:
            if owner.device == self._device:
                sighting = self._see_again(owner.storage)
                sighting.owner = _Owner(owner.name, owner.kind)
        for module, storages in of_modules.items():
            known = (self._live.get(storage._cdata) for storage in storages)
            self._used_by_module[module] = [s for s in known if s is not None]
        for storage in storages_of(reached, self._device):
            if not self._is_the_hosts(storage):
                self._see_again(storage).came_from_outside = True
        for cdata in left_alive:
            self._carry_over(cdata)

    @property
    def live_bytes(self) -> int:
        """Bytes of all storages that are alive now."""
        sightings = (self._live.get(cdata) for cdata in self._live)
        return sum(s.size_bytes for s in sightings if s is not None)

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Opens the next slot."""
        self._live.drain()
        slot = len(self.anchors)
        self.shows.append(self._show(slot, key, shown))
        self.anchors.append(key)
        if key.startswith(PRE):
            self._module = kind_of(key).removeprefix(PRE)
            for sighting in self._used_by_module.get(self._module, ()):
                sighting.touches.append(Touch(slot=slot, access=Access.READ))
        if key in self._unpacked:
            self._unpacked[key].touches.append(Touch(slot=slot, access=Access.READ))

    def on_address(self, storage: torch.UntypedStorage, access: Access) -> None:
        """Notes that the step takes a storage's address; see `profiles.hooks.addresses`."""
        sighting = self._live.get(storage._cdata)
        if sighting is not None:
            self._touch(sighting, access)

    def run_op(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Runs an op and notes what it uses, makes and frees.

        One that raises, and is caught, is no op of the step; what it was handed has to be there.
        """
        used = [
            (
                self._in_its_size(storage, self._found(storage)),
                Access.WRITE if writes else Access.READ,
            )
            for storage, writes in storages_in(func, args, kwargs, self._device).items()
            if not self._is_the_hosts(storage)
        ]
        self._live.drain()
        try:
            result, duration_us = self._run_marked(func, args, kwargs)
        except BaseException:
            for sighting, access in used:
                self._touch(sighting, access)
            raise
        collective = is_collective(func)
        for sighting, access in used:
            sighting.uses.append(Use(op=len(self.ops), access=access))
            sighting.exchanged |= collective
        self._see_outputs(func, args, kwargs, result)
        self._see_types((args, kwargs, result))
        self.ops.append(
            Op(
                name=str(func),
                slot=max(0, len(self.anchors) - 1),
                duration_us=duration_us,
                kernel_us=None,
                module=self._module,
                traits=self._traits_of(func, args, kwargs),
            )
        )
        return result

    def _traits_of(self, func: OpOverload, args: Any, kwargs: Any) -> tuple[OpTrait, ...]:
        """Returns the traits of an op; one that reads the host's memory is not run again.

        No storage of the profile says how long a batch of the host is there that an op brings in,
        or when it is written. A single number is kept when the op is noted.
        """
        traits = traits_of(func, args, kwargs)
        read = (tensor for tensor in tensors_of((args, kwargs)) if tensor.numel() > 1)
        is_known = all(map(self._is_on_device, read))
        if is_known or OpTrait.UNKNOWN_EFFECTS in traits:
            return traits
        return (*traits, OpTrait.UNKNOWN_EFFECTS)

    def storages(self, training: Training) -> tuple[Storage, ...]:
        """Returns what the step that has just ended was seen to do, in order of first sight.

        What the model and the optimizer hold now names the gradients and states that it made.
        """
        self._live.drain()
        for owner in _owned(training):
            sighting = self._live.get(owner.storage._cdata)
            if sighting is not None and sighting.owner is None:
                sighting.owner = _Owner(owner.name, owner.kind)
        kept = [s for s in self._sightings if not s.lives_between_points()]
        renumbered = {sighting.id: position for position, sighting in enumerate(kept)}
        # Buckets get their last sizes in the second step only: a replay does not know them before.
        self.shows = [
            None if s is None or self._sightings[s].exchanged else renumbered[s] for s in self.shows
        ]
        taken: set[str] = set()
        last_slot = len(self.anchors) - 1
        return tuple(s.storage(position, taken, last_slot) for position, s in enumerate(kept))

    def _reached(self, *roots: object) -> tuple[torch.Tensor, ...]:
        return reached_tensors(*roots)

    def _touch(self, sighting: _Sighting, access: Access) -> None:
        if self.anchors:
            sighting.touches.append(Touch(slot=len(self.anchors) - 1, access=access))

    def _run_marked(self, func: OpOverload, args: Any, kwargs: Any) -> tuple[Any, float]:
        """Runs an op with what it frees itself noted as freed by it."""
        self._in_op = True
        try:
            ran = self._run(func, args, kwargs)
            self._live.drain()
        finally:
            self._in_op = False
        return ran

    def _run(self, func: OpOverload, args: Any, kwargs: Any) -> tuple[Any, float]:
        start_ns = time.perf_counter_ns()
        result = func(*args, **kwargs)
        return result, (time.perf_counter_ns() - start_ns) / NS_PER_US

    def _is_traced(self, tensor: torch.Tensor) -> bool:
        # The tensor is asked, not its storage: that of a fake tensor says `meta` for every device.
        return has_storage(tensor) and tensor.device == self._device

    def _is_on_device(self, tensor: torch.Tensor) -> bool:
        is_there = tensor.device.type == self._device.type
        return is_there and not any(map(self._is_the_hosts, storages_of(tensor)))

    def _is_the_hosts(self, storage: torch.UntypedStorage) -> bool:
        """See [Note: memory that processes share]; what is owned has been seen before."""
        return is_shared_memory(storage) and self._live.get(storage._cdata) is None

    def _is_resizable(self, storage: torch.UntypedStorage) -> bool:
        return is_movable(storage)

    def _see(self, storage: torch.UntypedStorage, *, allocated_op: int | None) -> _Sighting:
        """Gets to know a storage: at an op or an anchor, or, with no op, at the step's begin."""
        size_bytes, resizable = self._size_of(storage), self._is_resizable(storage)
        sighting = self._sighting(size_bytes, resizable, allocated_op)
        self._live.put(storage, sighting)
        return sighting

    def _sighting(self, size_bytes: int, resizable: bool, allocated_op: int | None) -> _Sighting:
        sighting = _Sighting(
            step=self._step,
            id=len(self._sightings),
            size_bytes=size_bytes,
            module=self._module,
            resizable=resizable,
            allocated_op=allocated_op,
            allocated_slot=0 if allocated_op is None else len(self.anchors),
        )
        self._sightings.append(sighting)
        return sighting

    def _see_again(self, storage: torch.UntypedStorage) -> _Sighting:
        """Gets to know a storage that is alive when a step begins."""
        known = self._live.get(storage._cdata)
        if known is not None and known.step == self._step:
            return known
        return self._see(storage, allocated_op=None)

    def _carry_over(self, cdata: int) -> None:
        """Begins a new sighting of a storage that the step before left alive."""
        before = self._live.get(cdata)
        if before is None or before.step == self._step:
            return
        sighting = self._sighting(before.size_bytes, before.resizable, allocated_op=None)
        sighting.came_from_outside, sighting.dtypes = True, before.dtypes
        self._live.replace(cdata, sighting)

    def _on_release(self, sighting: _Sighting) -> None:
        sighting.released_op = len(self.ops) if self._in_op else len(self.ops) - 1
        sighting.released_slot = len(self.anchors) - 1

    def _found(self, storage: torch.UntypedStorage) -> _Sighting:
        """Returns what is known of a storage that an op or anchor shows, if no op made it."""
        sighting = self._live.get(storage._cdata)
        if sighting is None:
            sighting = self._see(storage, allocated_op=len(self.ops))
            sighting.came_from_outside = True
        return sighting

    def _in_its_size(self, storage: torch.UntypedStorage, sighting: _Sighting) -> _Sighting:
        """Begins a new sighting if a storage has another size than before."""
        if self._size_of(storage) == sighting.size_bytes:
            return sighting
        sighting.resized = True
        # What it had before is given back, as by a storage that is released.
        sighting.released_op, sighting.released_slot = len(self.ops) - 1, len(self.anchors) - 1
        following = self._see(storage, allocated_op=len(self.ops))
        following.resized = True
        following.came_from_outside = sighting.came_from_outside
        return following

    def _see_outputs(self, func: OpOverload, args: Any, kwargs: Any, result: Any) -> None:
        for storage in storages_of(result, self._device):
            sighting = self._live.get(storage._cdata)
            if sighting is None and not self._is_the_hosts(storage):
                sighting = self._see(storage, allocated_op=len(self.ops))
                sighting.uses.append(Use(op=len(self.ops), access=Access.WRITE))
        if func._schema.is_mutable:
            for storage, writes in storages_in(func, args, kwargs, self._device).items():
                sighting = self._live.get(storage._cdata)
                if writes and sighting is not None:
                    self._in_its_size(storage, sighting)

    def _see_types(self, value: Any) -> None:
        for tensor in tensors_of(value):
            if self._is_traced(tensor):
                sighting = self._live.get(tensor.untyped_storage()._cdata)
                if sighting is not None:
                    sighting.dtypes.add(tensor.dtype)

    def _show(self, slot: int, key: str, shown: torch.Tensor | None) -> int | None:
        if shown is None or not self._is_traced(shown):
            return None
        storage = shown.untyped_storage()
        if self._is_the_hosts(storage):
            return None
        sighting = self._found(storage)
        if sighting.shown_at is None:
            sighting.shown_at, sighting.shown_by = slot, key
        if key.startswith(PACK):
            self._unpacked[UNPACK + key.removeprefix(PACK)] = sighting
        return sighting.id


def _owned(training: Training) -> tuple[Owned, ...]:
    return owned_storages(training.model, training.optimizer)
