"""Updates: where inside `optimizer.step()` each parameter is reached for the first time.

Nothing inside an optimizer calls a hook, so a dispatch mode is active from the optimizer's pre hook
to its post hook and looks at the arguments of every op. A parameter's *family* is the parameter,
its gradient and its optimizer states of more than one element (step counts are touched for all
parameters at once). A family is reported before the first op that touches a storage of it.

[Note: families of one op] With `foreach` or `fused` one op touches many families, and nothing can
be done between them: the first that was not reached before is reported, the others go with it.

[Note: the update mode is asked first] The mode entered last is asked first, and this one is entered
inside the step, so modes around the step (the trace, the accountant, fake tensors) see an op after
its family was reported: what the report brings in is there when they look. It also means that no
op's own time holds the mode's; slots inside the optimizer step do, see
`profiles.schema.profile.Slot`.
"""

import threading
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from profiles.hooks.addresses import in_thread_of_step
from profiles.hooks.dispatch import (
    READS_DESCRIPTION,
    is_bookkeeping,
    is_random,
    is_taken_apart,
    tensors_of,
)
from profiles.hooks.mode_stack import enter_ops, leave_ops
from profiles.hooks.plain_tensors import storages_behind
from profiles.hooks.several_optimizers import SeveralOptimizers
from profiles.schema.profile import Access

SHARED = ""
"""The family of a storage that several parameters share."""


class _Member(NamedTuple):
    """A storage of a family; found by its address, which another may have once it is freed."""

    family: str
    storage: "weakref.ref[torch.UntypedStorage]"


class Relieved(Protocol):
    """A mode around the step that looks at ops, and has this file's mode look in its place.

    Two modes take twice the time of one for each op.
    """

    def step_aside(self) -> None:
        """Leaves this thread's stack of modes, if it is on it."""

    def step_in(self) -> None:
        """Comes back to where it was, if it has stepped aside."""

    def look_from_aside(self, func: OpOverload, types: Any, args: Any, kwargs: Any) -> bool:
        """Looks at an op before it runs; returns whether it is left to the tensors it runs on."""

    def makes_room_from_aside(self, func: OpOverload, args: Any, kwargs: Any) -> bool:
        """Comes back for an op that found no room; returns whether that is to be run again."""


class UpdateMode(TorchDispatchMode):
    """Reports each parameter when the optimizer reaches it; once per `optimizer.step()`.

    What a closure runs is forward and backward, with anchors of its own: the mode is paused
    meanwhile. A storage that several parameters share, such as a gradient bucket of
    DistributedDataParallel, belongs to no family.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        on_reached: Callable[[str], None],
    ) -> None:
        """Makes a mode that is not active yet.

        `on_reached` is called with the qualified name of each parameter of the model, before the op
        that touches its family runs.
        """
        super().__init__()
        self._parameters = dict(model.named_parameters())
        self._names = {parameter: name for name, parameter in self._parameters.items()}
        self._optimizer = optimizer
        self._on_reached = on_reached
        self._unreached: dict[int, _Member] = {}
        self._storages_of: dict[str, list[int]] = {}
        self._growing: set[str] = set()
        self._active = self._is_paused = False
        self._thread = 0
        self._relieved: Relieved | None = None

    def relieve(self, mode: Relieved) -> None:
        """Has a mode step aside whenever this one is active."""
        self._relieved = mode

    def begin(self, optimizer: torch.optim.Optimizer) -> None:
        """Starts where an optimizer, or one of several, begins to update."""
        self._forget()
        for family in self._families_of(optimizer):
            self._look_up(family)
        self._thread = threading.get_ident()
        self._is_paused = False
        self._enter()

    def pause(self) -> None:
        """Sees nothing of what a closure runs, if it was active."""
        self._is_paused = self._active
        self._leave()

    def resume(self) -> None:
        """Goes on after a closure, if it was active before."""
        if self._is_paused:
            self._is_paused = False
            self._enter()

    def on_address(self, storage: torch.UntypedStorage, access: Access) -> None:
        """Takes a storage whose address is taken as reached; see `profiles.hooks.addresses`."""
        if self._active and in_thread_of_step(self._thread):
            family = self._family_of(storage)
            if family:
                self._reach([family])

    def end(self) -> None:
        """Ends at the optimizer's post hook, or when an exception has passed that by."""
        self._is_paused = False
        self._leave()
        self._forget()

    def close(self) -> None:
        """Ends for good, and lets go of the model."""
        self.end()
        self._parameters.clear()
        self._names.clear()

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if is_taken_apart(types, args, kwargs):
            return NotImplemented
        kwargs = kwargs or {}
        if self._unreached:
            self._look_at(func, args, kwargs)
        if self._relieved is not None and self._relieved.look_from_aside(func, types, args, kwargs):
            return NotImplemented
        try:
            return func(*args, **kwargs)
        except torch.OutOfMemoryError:
            relieved = self._relieved
            # What it has drawn cannot be taken back here.
            if relieved is None or is_random(func):
                raise
            if not relieved.makes_room_from_aside(func, args, kwargs):
                raise
        return func(*args, **kwargs)

    def _look_at(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        while self._growing:
            self._look_up(self._growing.pop())
        families = self._families_in(args, kwargs)
        if not families or is_bookkeeping(func):
            return
        if func in READS_DESCRIPTION:
            # In the first step: what is made after a parameter or gradient may become a state.
            self._growing.update(families)
            return
        self._reach(families)

    def _reach(self, families: list[str]) -> None:
        for family in dict.fromkeys(families):
            for cdata in self._storages_of.pop(family):
                self._unreached.pop(cdata, None)
        self._on_reached(families[0])

    def _families_in(self, args: Any, kwargs: Any) -> list[str]:
        """Returns the families not reached yet that an op's arguments belong to."""
        found: list[str] = []
        # Most arguments are tensors or numbers: looking into nests only is half the time.
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor):
                found.extend(map(self._family_of, storages_behind(value)))
            elif isinstance(value, (list, tuple)):
                for tensor in tensors_of(value):
                    found.extend(map(self._family_of, storages_behind(tensor)))
        return [family for family in found if family != SHARED]

    def _family_of(self, storage: torch.UntypedStorage) -> str:
        member = self._unreached.get(storage._cdata)
        return member.family if member is not None and member.storage() is storage else SHARED

    def _families_of(self, optimizer: torch.optim.Optimizer) -> Iterable[str]:
        """Of several each reaches its own, and may be one of hundreds; one may reach any."""
        if not isinstance(self._optimizer, SeveralOptimizers):
            return self._parameters
        groups = optimizer.param_groups
        return [self._names[p] for group in groups for p in group["params"] if p in self._names]

    def _look_up(self, family: str) -> None:
        """Finds the storages of a family as they are now."""
        parameter = self._parameters[family]
        self._add(family, parameter)
        if parameter.grad is not None:
            self._add(family, parameter.grad)
        for value in self._optimizer.state.get(parameter, {}).values():
            if isinstance(value, torch.Tensor) and value.numel() > 1:
                self._add(family, value)

    def _add(self, family: str, tensor: torch.Tensor) -> None:
        for storage in storages_behind(tensor):
            known = self._unreached.get(storage._cdata)
            shared = known is not None and known.storage() is storage and known.family != family
            member = _Member(SHARED if shared else family, weakref.ref(storage))
            self._unreached[storage._cdata] = member
            self._storages_of.setdefault(family, []).append(storage._cdata)

    def _forget(self) -> None:
        self._unreached.clear()
        self._storages_of.clear()
        self._growing.clear()

    def _enter(self) -> None:
        if not self._active:
            if self._relieved is not None:
                self._relieved.step_aside()
            self._active = True
            enter_ops(self)

    def _leave(self) -> None:
        if self._active:
            leave_ops(self)
            self._active = False
            if self._relieved is not None:
                self._relieved.step_in()
