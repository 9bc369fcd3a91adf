"""What the hooks on a model and its optimizer call: the replay, as long as it is attached.

Whatever hook stays behind, because an interrupt came between its registration and the note of it,
holds nothing but these ears, and they are deaf once the replay is closed.
"""

from typing import TYPE_CHECKING, Any

import torch

from profiles.hooks.anchors import OwnHook

if TYPE_CHECKING:
    from runtime.replay.replay import Replay


class AttachedHooks:
    """The hooks of one replay, but those at anchors, which report to it, too."""

    def __init__(self, replay: "Replay") -> None:
        self._replay: Replay | None = replay
        self._handles: list[Any] = []

    def listen(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Hears before a forward, in any thread, and before a state_dict is read or loaded."""
        at_forward, at_state_dict = OwnHook(self._on_forward), OwnHook(self._on_state_dict)
        keep = self._handles.append
        keep(optimizer.register_state_dict_pre_hook(at_state_dict))
        keep(optimizer.register_load_state_dict_pre_hook(at_state_dict))
        for module in model.modules():
            keep(module.register_state_dict_pre_hook(at_state_dict))
            keep(module.register_load_state_dict_pre_hook(at_state_dict))
            keep(module.register_forward_pre_hook(at_forward))

    def close(self) -> None:
        """Removes the hooks; whatever is left of them does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._replay = None

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Tells the replay of an anchor; see `profiles.hooks.anchors`."""
        if self._replay is not None:
            self._replay.on_anchor(key, shown)

    def _on_forward(self, *_: Any) -> None:
        if self._replay is not None:
            self._replay.on_forward()

    def _on_state_dict(self, *_: Any) -> None:
        if self._replay is not None:
            self._replay.on_state_dict()
