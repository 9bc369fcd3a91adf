"""The trace of one step: a dispatch mode that sees every op, every storage and every anchor."""

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from profiles.dispatch import (
    is_bookkeeping,
    is_collective,
    is_on,
    storages_in,
    storages_of,
    tensors_of,
)
from profiles.owned import Owned
from profiles.profile import Access, LeftOut, Op, Storage, StorageKind, Use
from profiles.stamps import US_PER_NS


class _Owner(NamedTuple):
    """The name and class of an owned storage, without keeping it alive."""

    name: str
    kind: StorageKind


@dataclass
class _Sighting:
    """What is known of a storage so far; becomes a `Storage` when the step is over."""

    id: int
    size_bytes: int
    module: str
    resizable: bool
    allocated_op: int | None
    owner: _Owner | None = None
    came_from_outside: bool = False
    exchanged: bool = False
    shown_by: str | None = None
    shown_at: int | None = None
    released_op: int | None = None
    uses: list[Use] = field(default_factory=list)
    seen_bools: bool = False
    seen_others: bool = False

    @property
    def is_lasting(self) -> bool:
        """Whether it outlives steps although nobody at hand owns it: a batch that is used again.

        No op of the step made it and it is there when the step ends, so the next step finds it from
        the begin on, however late in it the first use comes.
        """
        return self.came_from_outside and self.owner is None and self.released_op is None

    @property
    def is_bucket(self) -> bool:
        """Whether workers sum gradients in it."""
        return self.exchanged and self.is_lasting


class StepTrace(TorchDispatchMode):
    """Records one step while active. It is also the anchor listener of that step.

    [Note: release by weak reference] A storage's Python object lives exactly as long as the
    storage does, so a finalizer on it fires at the point of the program where the memory is given
    back. Nothing here may keep a tensor or a storage alive beyond the op that showed it.
    """

    def __init__(
        self,
        device: torch.device,
        size_of: Callable[[torch.UntypedStorage], int] = torch.UntypedStorage.nbytes,
    ) -> None:
        """Makes an empty trace.

        Args:
            device: Storages elsewhere are not traced.
            size_of: Tells a storage's size in bytes, also of one that is emptied just now.
        """
        super().__init__()
        self.ops: list[Op] = []
        self.anchors: list[str] = []
        self.shows: list[int | None] = []
        self._device = device
        self._size_of = size_of
        self._sightings: list[_Sighting] = []
        self._live: dict[int, _Sighting] = {}
        self._finalizers: list[weakref.finalize[Any, Any]] = []
        self._module = ""
        self._in_op = False

    def see_owned(self, owned: tuple[Owned, ...]) -> None:
        """Registers what the model and the optimizer hold before the step begins."""
        for owner in owned:
            if owner.device == self._device:
                sighting = self._see(owner.storage, allocated_op=None)
                sighting.owner = _Owner(owner.name, owner.kind)

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Opens the next slot."""
        slot = len(self.anchors)
        if key.startswith("pre:"):
            self._module = key.removeprefix("pre:").split("#")[0]
        self.anchors.append(key)
        self.shows.append(self._show(slot, key, shown))

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if is_bookkeeping(func):
            return func(*args, **kwargs)
        self._use_inputs(func, args, kwargs)
        self._in_op = True
        result, duration_us = self._run(func, args, kwargs)
        self._in_op = False
        self._see_outputs(result)
        self._see_types((args, kwargs, result))
        op = Op(
            name=str(func),
            slot=max(0, len(self.anchors) - 1),
            duration_us=duration_us,
            kernel_us=None,
            module=self._module,
        )
        self.ops.append(op)
        return result

    def storages(self, owned_after: tuple[Owned, ...]) -> tuple[Storage, ...]:
        """Ends the trace and returns what it saw, in order of first sight.

        Args:
            owned_after: What the model and the optimizer hold after the step: this names the
                gradients and the states that the step itself made.
        """
        for finalizer in self._finalizers:
            finalizer.detach()
        for owner in owned_after:
            sighting = self._live.get(owner.storage._cdata)
            if sighting is not None and sighting.owner is None:
                sighting.owner = _Owner(owner.name, owner.kind)
        for lasting in (s for s in self._sightings if s.is_lasting):
            lasting.allocated_op = None
        kept = [s for s in self._sightings if s.released_op is None or s.released_op >= 0]
        renumbered = {sighting.id: position for position, sighting in enumerate(kept)}
        # Buckets get their last sizes in the second step only: a replay cannot tell them before.
        shown = [None if s is None or self._sightings[s].exchanged else s for s in self.shows]
        self.shows = [None if s is None else renumbered[s] for s in shown]
        taken: set[str] = set()
        return tuple(_storage(s, position, taken) for position, s in enumerate(kept))

    def _run(self, func: OpOverload, args: Any, kwargs: Any) -> tuple[Any, float]:
        """Runs an op; returns its result and its duration in us."""
        start_ns = time.perf_counter_ns()
        result = func(*args, **kwargs)
        return result, (time.perf_counter_ns() - start_ns) * US_PER_NS

    def _is_resizable(self, storage: torch.UntypedStorage) -> bool:
        return storage.resizable()

    def _see(self, storage: torch.UntypedStorage, *, allocated_op: int | None) -> _Sighting:
        sighting = _Sighting(
            id=len(self._sightings),
            size_bytes=self._size_of(storage),
            module=self._module,
            resizable=self._is_resizable(storage),
            allocated_op=allocated_op,
        )
        self._sightings.append(sighting)
        self._live[storage._cdata] = sighting
        finalizer = weakref.finalize(storage, self._on_release, storage._cdata, sighting)
        finalizer.atexit = False
        self._finalizers.append(finalizer)
        return sighting

    def _on_release(self, cdata: int, sighting: _Sighting) -> None:
        sighting.released_op = len(self.ops) if self._in_op else len(self.ops) - 1
        if self._live.get(cdata) is sighting:
            del self._live[cdata]

    def _use_inputs(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        collective = is_collective(func)
        for storage, writes in storages_in(func, args, kwargs, self._device).items():
            sighting = self._live.get(storage._cdata)
            if sighting is None:
                sighting = self._see(storage, allocated_op=len(self.ops))
                sighting.came_from_outside = True
            access = Access.WRITE if writes else Access.READ
            sighting.uses.append(Use(op=len(self.ops), access=access))
            sighting.exchanged |= collective
            sighting.size_bytes = max(sighting.size_bytes, self._size_of(storage))

    def _see_outputs(self, result: Any) -> None:
        for storage in storages_of(result, self._device):
            if storage._cdata not in self._live:
                sighting = self._see(storage, allocated_op=len(self.ops))
                sighting.uses.append(Use(op=len(self.ops), access=Access.WRITE))

    def _see_types(self, value: Any) -> None:
        """Notes which storages hold bools, and which hold anything else as well."""
        for tensor in tensors_of(value):
            if is_on(tensor, self._device):
                sighting = self._live.get(tensor.untyped_storage()._cdata)
                if sighting is not None:
                    sighting.seen_bools |= tensor.dtype is torch.bool
                    sighting.seen_others |= tensor.dtype is not torch.bool

    def _show(self, slot: int, key: str, shown: torch.Tensor | None) -> int | None:
        if shown is None or not is_on(shown, self._device):
            return None
        storage = shown.untyped_storage()
        sighting = self._live.get(storage._cdata)
        if sighting is None:
            sighting = self._see(storage, allocated_op=max(0, len(self.ops) - 1))
            sighting.came_from_outside = True
        if sighting.shown_at is None:
            sighting.shown_at, sighting.shown_by = slot, key
        return sighting.id


def _storage(sighting: _Sighting, position: int, taken: set[str]) -> Storage:
    """Closes a sighting: name, kind, first anchor, and why it cannot be moved."""
    name, kind, shown_at = _identity(sighting, position)
    if name in taken:
        # Replay finds the first storage of a name only.
        name, shown_at = f"{name}@{position}", None
    taken.add(name)
    left_out = None
    if not sighting.resizable:
        left_out = LeftOut.NOT_RESIZABLE
    elif sighting.exchanged:
        left_out = LeftOut.EXCHANGED
    elif shown_at is None:
        left_out = LeftOut.NEVER_SHOWN
    return Storage(
        id=position,
        name=name,
        kind=kind,
        size_bytes=sighting.size_bytes,
        module=sighting.module,
        allocated_op=sighting.allocated_op,
        released_op=sighting.released_op,
        shown_at=shown_at,
        uses=tuple(sighting.uses),
        left_out=left_out,
        is_mask=sighting.seen_bools and not sighting.seen_others,
    )


def _identity(sighting: _Sighting, position: int) -> tuple[str, StorageKind, int | None]:
    """How replay will find a storage: by its owner if it is held at `begin`, else by an anchor."""
    owner = sighting.owner
    if owner is not None and sighting.allocated_op is None:
        if sighting.released_op is None:
            return owner.name, owner.kind, 0
        # Dropped during the step, as `zero_grad` drops gradients: what replay finds under this
        # name is its successor.
        return f"{owner.name}@begin", owner.kind, None
    if sighting.shown_by is not None:
        if owner is not None:
            return sighting.shown_by, owner.kind, sighting.shown_at
        kind = StorageKind.INPUT if sighting.came_from_outside else StorageKind.ACTIVATION
        if sighting.shown_by.startswith("grad:"):
            kind = StorageKind.GRADIENT
        return sighting.shown_by, kind, sighting.shown_at
    if owner is not None:
        return owner.name, owner.kind, None
    if sighting.is_bucket:
        return f"bucket:{position}", StorageKind.GRADIENT, None
    if sighting.came_from_outside:
        return f"input:{position}", StorageKind.INPUT, None
    return f"op:{sighting.allocated_op}:{position}", StorageKind.TEMPORARY, None
