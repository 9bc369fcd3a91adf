"""What a replay hears of its model as long as it is attached, whether a step runs or not.

[Note: addresses and threads] Code that runs no op takes the address of what it uses
(`profiles.hooks.addresses`). Between two steps that may be in any thread. In a step only the
threads that run it are heard, its own and autograd's: bringing something back for another thread
would meet the plan's own moves of the same storage. This holds in every step, watched or not, as
long as the replay is attached: a method that is never called costs nothing.

[Note: state_dicts in a step] An average of the weights often reads `model.state_dict()` in every
step, and a target network is loaded by `load_state_dict`. A state_dict holds the tensors
themselves: they are used by ops, which are looked at like all others, or an address is taken, as
saving does. So asking for one changes nothing, unless its tensors are put in the place of the
model's or the optimizer's, or another thread asks.
"""

import threading
from typing import Any, Protocol

import torch

from profiles.hooks.addresses import Listening, in_thread_of_step
from profiles.hooks.anchors import OwnHook
from profiles.hooks.checkpointing import Checkpointing
from profiles.schema.profile import Access
from runtime.replay.between_steps import BoundaryGuard


class AttachedListener(Protocol):
    """What is told of a model that it is attached to."""

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Called at each anchor of a step; see `profiles.hooks.anchors`."""

    def on_address(self, storage: torch.UntypedStorage, access: Access) -> None:
        """Called before code that is no op of the step gets at a storage's memory."""

    def on_state_dict(self, *, by_ops: bool) -> None:
        """Called before a state_dict is read or loaded; see [Note: state_dicts in a step]."""

    def on_forward(self) -> None:
        """Called before a module's forward."""


class AttachedHooks:
    """All hooks on a model for a listener, and what hears of addresses for it, until `close`.

    Whatever hook stays behind, because an interrupt came between its registration and the note of
    it, holds nothing but this object, which reports nothing once it is closed.
    """

    def __init__(
        self,
        listener: AttachedListener,
        between_steps: BoundaryGuard,
        checkpointing: Checkpointing | None = None,
    ) -> None:
        """Begins to listen to addresses; those taken between steps are the guard's business.

        `checkpointing` is what becomes of the model's in a step; it is kept if None.
        """
        self._checkpointing = checkpointing or Checkpointing(kept=True)
        self._listener: AttachedListener | None = listener
        self._between_steps = between_steps
        self._handles: list[Any] = []
        self._step_thread: int | None = None
        self._listening = Listening(self._on_address)

    def attach(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Hears before a forward, in any thread, and before a state_dict is read or loaded."""
        at_forward, at_state_dict = OwnHook(self._on_forward), OwnHook(self._on_state_dict)
        at_loading = OwnHook(self._on_loading)
        keep = self._handles.append
        keep(optimizer.register_state_dict_pre_hook(at_state_dict))
        keep(optimizer.register_load_state_dict_pre_hook(at_loading))
        for module in model.modules():
            keep(module.register_state_dict_pre_hook(at_state_dict))
            keep(module.register_load_state_dict_pre_hook(at_loading))
            keep(module.register_forward_pre_hook(at_forward))

    def begin_step(self) -> None:
        """What this thread does from now on is a step."""
        self._step_thread = threading.get_ident()
        self._checkpointing.__enter__()

    def leave_plan(self) -> None:
        """The rest of the step follows no plan: what the model checkpoints is so again."""
        self._checkpointing.leave()

    def end_step(self) -> None:
        """The step has ended; may be repeated."""
        self._step_thread = None
        self._checkpointing.leave()

    def close(self) -> None:
        """Removes the hooks; whatever is left of them does nothing. It may be called again."""
        self._listening.remove()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._listener = None

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Reports an anchor; see `profiles.hooks.anchors`."""
        if self._listener is not None:
            self._listener.on_anchor(key, shown)

    def _on_forward(self, *_: Any) -> None:
        if self._listener is not None:
            self._listener.on_forward()

    def _on_state_dict(self, *_: Any) -> None:
        if self._listener is not None:
            self._listener.on_state_dict(by_ops=self._is_in_thread_of_step())

    def _on_loading(self, loaded: object, *how: Any) -> None:
        if self._listener is not None:
            by_ops = _is_copied_into(loaded, how) and self._is_in_thread_of_step()
            self._listener.on_state_dict(by_ops=by_ops)

    def _is_in_thread_of_step(self) -> bool:
        return self._step_thread is not None and in_thread_of_step(self._step_thread)

    def _on_address(self, storage: torch.UntypedStorage, access: Access) -> None:
        if self._step_thread is None:
            self._between_steps.look_at(storage)
        elif self._listener is not None and self._is_in_thread_of_step():
            self._listener.on_address(storage, access)


def _is_copied_into(loaded: object, how: tuple[Any, ...]) -> bool:
    """Whether loading a state_dict copies into tensors that stay, as modules do by default."""
    if not isinstance(loaded, torch.nn.Module) or len(how) < 3:
        return False
    _, _, metadata, *_ = how
    replaces = metadata.get("assign_to_params_buffers", False)
    return not replaces and not torch.__future__.get_swap_module_params_on_conversion()
