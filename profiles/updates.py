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
op's own time holds the mode's; slots inside the optimizer step do, see `profiles.profile.Slot`.
"""

import weakref
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from profiles.dispatch import is_bookkeeping, reads_description_only, tensors_of
from profiles.owned import has_storage

OnReached = Callable[[str], None]


class _Member(NamedTuple):
    """A storage of a family. An address may be used again, so it alone proves nothing."""

    family: str
    storage: "weakref.ref[torch.UntypedStorage]"


class UpdateMode(TorchDispatchMode):
    """Reports each parameter when the optimizer reaches it; once per `optimizer.step()`.

    What a closure runs is forward and backward, with anchors of its own: it counts for nothing
    here. A storage that several parameters share, such as a gradient bucket of
    DistributedDataParallel, belongs to no family.
    """

    def __init__(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, on_reached: OnReached
    ) -> None:
        """Makes a mode that is not active yet.

        Args:
            model: Whose parameters are reported, by qualified name.
            optimizer: Whose states belong to their families.
            on_reached: Told of each, before the op that touches it runs.
        """
        super().__init__()
        self._parameters = tuple(model.named_parameters())
        self._optimizer = optimizer
        self._on_reached = on_reached
        self._unreached: dict[int, _Member] = {}
        self._storages_of: dict[str, list[int]] = {}
        self._active = False

    def begin(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Starts at the optimizer's pre hook.

        Args:
            args: Positional arguments of `optimizer.step`.
            kwargs: Its other arguments.

        Returns:
            The arguments to call it with: a closure in them runs without this mode.
        """
        self._look_up()
        self._enter()
        bare = tuple(map(self._left_alone, args))
        return bare, {name: self._left_alone(value) for name, value in kwargs.items()}

    def end(self) -> None:
        """Ends at the optimizer's post hook, or when an exception has passed that by."""
        self._unreached.clear()
        self._storages_of.clear()
        self._leave()

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._unreached:
            families = list(self._families_in(args, kwargs))
            if families and not (is_bookkeeping(func) or reads_description_only(func)):
                self._reach(families)
        return func(*args, **kwargs)

    def _families_in(self, args: Any, kwargs: Any) -> Iterator[str]:
        """Yields the families not reached yet that an op's arguments belong to."""
        for value in (*args, *kwargs.values()):
            for tensor in tensors_of(value):
                if tensor.layout is not torch.strided:
                    continue
                storage = tensor.untyped_storage()
                member = self._unreached.get(storage._cdata)
                if member is not None and member.storage() is storage:
                    yield member.family

    def _reach(self, families: list[str]) -> None:
        for family in dict.fromkeys(families):
            for cdata in self._storages_of.pop(family):
                self._unreached.pop(cdata, None)
        self._on_reached(families[0])

    def _look_up(self) -> None:
        """Finds the storages of all families as they are now."""
        self._unreached = {}
        self._storages_of = {}
        shared: set[int] = set()
        for family, tensor in self._tensors():
            if has_storage(tensor):
                storage = tensor.untyped_storage()
                member = _Member(family, weakref.ref(storage))
                if self._unreached.setdefault(storage._cdata, member).family != family:
                    shared.add(storage._cdata)
                self._storages_of.setdefault(family, []).append(storage._cdata)
        for cdata in shared:
            del self._unreached[cdata]

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for family, parameter in self._parameters:
            yield family, parameter
            if parameter.grad is not None:
                yield family, parameter.grad
            for value in self._optimizer.state.get(parameter, {}).values():
                if isinstance(value, torch.Tensor) and value.numel() > 1:
                    yield family, value

    def _left_alone(self, argument: Any) -> Any:
        """Returns an argument that this mode does not watch, if it is a closure."""
        if argument is self._optimizer or not callable(argument):
            return argument

        @wraps(argument)
        def closure(*args: Any, **kwargs: Any) -> Any:
            self._leave()
            try:
                return argument(*args, **kwargs)
            finally:
                self._enter()

        return closure

    def _enter(self) -> None:
        if not self._active:
            self.__enter__()
            self._active = True

    def _leave(self) -> None:
        if self._active:
            self._active = False
            self.__exit__(None, None, None)
