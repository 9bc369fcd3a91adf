"""Anchors: the points of a training step where the runtime gets control.

The same hooks name the anchors while recording and while replaying, so a profile and a replay
speak of the same points as long as the step runs the same program:

- `begin`, `end`: entering and leaving the step;
- `pre:enc.conv`: before the forward of a leaf module;
- `pack:17`, `unpack:17`: autograd saves its 17th tensor, and asks for it back;
- `grad:enc.conv.weight`: a gradient has been accumulated;
- `optimizer:pre`, `optimizer:post`: around `optimizer.step()`, of each optimizer if there are
  several; if that is given a closure, which runs forward and backward, the first of them comes when
  the closure has run;
- `update:enc.conv.weight`: inside it, before the first op that touches a parameter, its gradient or
  its optimizer states (`profiles.hooks.optimizer_updates`).

A key that occurs again in the same step gets a count: `pre:enc.conv#1`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial, wraps
from typing import Any, NamedTuple, Protocol

import torch
from torch.utils.hooks import RemovableHandle

from profiles.hooks.addresses import Listening
from profiles.hooks.data_parallel import unwrapped
from profiles.hooks.mode_stack import Hooks, leave_saved_hooks
from profiles.hooks.optimizer_updates import Relieved, UpdateMode
from profiles.hooks.plain_tensors import only_plain, version_of
from profiles.schema.errors import WorkloadError
from profiles.schema.profile import (
    BEGIN,
    END,
    GRAD,
    OPTIMIZER_POST,
    OPTIMIZER_PRE,
    PACK,
    PRE,
    UNPACK,
    UPDATE,
)


class Reported(Enum):
    """Which anchors are reported: finding updates takes microseconds for each optimizer op."""

    EVERYTHING = "every anchor"
    ALL_BUT_UPDATES = "all but those inside `optimizer.step()`"


def kind_of(key: str) -> str:
    """Returns an anchor's key without its count."""
    return key.partition("#")[0]


def is_update(key: str) -> bool:
    """Whether an anchor is one of those inside `optimizer.step()`."""
    return key.startswith(UPDATE)


class AnchorListener(Protocol):
    """What recording and replay do at an anchor."""

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Called at every anchor of a step, in program order.

        Args:
            key: The anchor's key.
            shown: The tensor this anchor shows, if any: of a tensor that wraps one other, that
                other. Borrowed: a listener that keeps it changes how long it lives.
        """


REFUSAL = (
    "The step calls torch.func.grad or other code that forbids hooks on saved tensors, which show "
    "a recording and a plan what autograd keeps: such a step cannot be recorded. Compute that "
    "gradient with torch.autograd.grad, or outside the step."
)


def is_refusal_of_hooks(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that hooks on saved tensors are forbidden.

    `torch.func.grad`, `vjp`, `jacrev` and `hessian` refuse them, and so does whatever else runs
    inside `torch.autograd.graph.disable_saved_tensors_hooks`.
    """
    words = ("saved tensor hooks", "saved tensors hooks")
    while error is not None:
        if isinstance(error, RuntimeError) and any(word in str(error) for word in words):
            return True
        error = error.__cause__
    return False


class OwnHook:
    """Calls a function, but not for a copy of the model: that gets a hook that does nothing.

    Torch copies and pickles a module's hooks with the module. A copy that is trained, sent or
    saved must neither drag along what the hook belongs to nor report to it.
    """

    def __init__(self, act: Callable[..., Any]) -> None:
        self._act = act

    def __call__(self, *args: Any) -> Any:
        """Calls the function."""
        return self._act(*args)

    def __deepcopy__(self, _: object) -> Callable[..., None]:
        return _no_hook

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _hook_of_copy, ()


def _no_hook(*_: Any) -> None:
    """The hook of a copy."""


def _hook_of_copy() -> Callable[..., None]:
    return _no_hook


class _Saved(NamedTuple):
    """What autograd keeps for a saved tensor.

    [Note: saved tensors are detached] Handing autograd the very tensor it gave to `pack` makes a
    reference cycle when that tensor is the node's own output. A detached alias shares storage and
    version counter and makes none.
    """

    step: int
    number: int
    tensor: torch.Tensor
    version: int


class AnchorHooks:
    """Finds the anchors of a model's training step and reports them to a listener.

    The hooks stay registered from construction to `close` and do nothing outside `step`. What an
    interrupt leaves of them on the model after `close` does nothing and holds nothing.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        listener: AnchorListener | None = None,
        reported: Reported = Reported.EVERYTHING,
    ) -> None:
        self._listener = listener
        self._reported = reported
        self._updates = UpdateMode(unwrapped(model), optimizer, self._on_update)
        self._active = False
        self._saving = False
        self._updating = False
        self._step = 0
        self._packs = 0
        self._seen: Counter[str] = Counter()
        self._handles: list[RemovableHandle | Listening] = []
        try:
            self._handles.append(Listening(self._updates.on_address))
            self._attach(unwrapped(model), optimizer)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def step(self, listener: AnchorListener | None = None) -> Iterator[None]:
        """Reports the anchors of the training step run inside, from now on to another listener.

        An exception inside leaves without an `end` anchor.

        Raises:
            WorkloadError: The step forbids hooks on saved tensors.
        """
        self._listener = listener or self._listener
        try:
            self.begin()
            yield
            self.finish()
        except Exception as error:
            if is_refusal_of_hooks(error) and REFUSAL not in str(error):
                raise WorkloadError(REFUSAL) from error
            raise
        finally:
            self.leave()

    def begin(self) -> None:
        """Begins a step; `leave` must follow, whatever happens."""
        self._step += 1
        self._packs = 0
        self._seen.clear()
        self._active = True
        self._reach(BEGIN, None)
        self._saving = True
        torch._C._autograd._push_saved_tensors_default_hooks(*self._saved_hooks)

    def finish(self) -> None:
        """Reaches the end of a step that raised nothing."""
        self._leave_saved()
        self._reach(END, None)

    def leave(self) -> None:
        """Reports nothing any more, and leaves no mode behind; does nothing if there is no step."""
        self._active = False
        self._updates.end()
        self._leave_saved()

    def leave_out(self, key: str) -> None:
        """Counts an anchor of an update that is skipped: those to come have their planned keys."""
        self._seen[kind_of(key)] += 1

    def relieve(self, mode: Relieved) -> None:
        """Has a mode around the step step aside for the mode that finds updates."""
        self._updates.relieve(mode)

    def close(self) -> None:
        """Removes every hook."""
        self.leave()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._listener = None
        self._updates.close()

    @property
    def _saved_hooks(self) -> Hooks:
        return self._pack, self._unpack

    def _leave_saved(self) -> None:
        if self._saving:
            leave_saved_hooks(self._saved_hooks)
            self._saving = False

    def _attach(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        keep = self._handles.append
        for name, module in model.named_modules():
            if next(module.children(), None) is None:
                on_forward = partial(self._on_forward, f"{PRE}{name}")
                keep(module.register_forward_pre_hook(OwnHook(on_forward)))
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                on_gradient = partial(self._on_gradient, f"{GRAD}{name}")
                keep(parameter.register_post_accumulate_grad_hook(on_gradient))
        keep(optimizer.register_step_pre_hook(self._before_optimizer))
        keep(optimizer.register_step_post_hook(self._after_optimizer))

    def _on_forward(self, key: str, *_: Any) -> None:
        self._reach(key, None)

    def _on_gradient(self, key: str, parameter: torch.Tensor) -> None:
        self._reach(key, parameter.grad)

    def _before_optimizer(self, optimizer: Any, args: Any, kwargs: Any) -> tuple[Any, Any] | None:
        self._updating = False

        def is_closure(value: Any) -> bool:
            return value is not optimizer and callable(value)

        if not list(filter(is_closure, (*args, *kwargs.values()))):
            self._begin_updates(optimizer)
            return None

        def around(value: Any) -> Any:
            return self._around(optimizer, value) if is_closure(value) else value

        return tuple(map(around, args)), {name: around(value) for name, value in kwargs.items()}

    def _around(self, optimizer: Any, closure: Callable[..., Any]) -> Callable[..., Any]:
        """Returns a closure after which updates begin, or go on; it may begin the step itself."""

        @wraps(closure)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self._updates.pause()
            result = closure(*args, **kwargs)
            if self._updating:
                self._updates.resume()
            else:
                self._begin_updates(optimizer)
            return result

        return watched

    def _begin_updates(self, optimizer: torch.optim.Optimizer) -> None:
        self._updating = True
        self._reach(OPTIMIZER_PRE, None)
        if self._active and self._reported is Reported.EVERYTHING:
            self._updates.begin(optimizer)

    def _after_optimizer(self, *_: Any) -> None:
        self._updates.end()
        self._reach(OPTIMIZER_POST, None)

    def _on_update(self, parameter: str) -> None:
        self._reach(f"{UPDATE}{parameter}", None)

    def _reach(self, key: str, shown: torch.Tensor | None) -> None:
        if not self._active:
            return
        times = self._seen[key]
        self._seen[key] = times + 1
        assert self._listener is not None, "hooks that are closed are not active"
        shown = only_plain(shown)
        self._listener.on_anchor(f"{key}#{times}" if times else key, shown)

    def _pack(self, tensor: torch.Tensor) -> _Saved:
        number = self._packs
        self._packs += 1
        self._reach(f"{PACK}{number}", tensor)
        return _Saved(self._step, number, tensor.detach(), version_of(tensor))

    def _unpack(self, saved: _Saved) -> torch.Tensor:
        # A graph kept from an earlier step: no recorded step does this at this point.
        earlier = "" if saved.step == self._step else "@earlier"
        self._reach(f"{UNPACK}{saved.number}{earlier}", None)
        _check_version(saved)
        return saved.tensor


def _check_version(saved: _Saved) -> None:
    """Repeats the check that autograd leaves out for tensors that went through hooks.

    Raises:
        RuntimeError: The saved tensor was written in place since; its gradient would be wrong.
    """
    found = version_of(saved.tensor)
    if found != saved.version:
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace "
            f"operation: [{saved.tensor.type()} {list(saved.tensor.shape)}] is at version {found}; "
            f"expected version {saved.version} instead."
        )
