"""The first call of a module in a step: what it is handed says which course the step takes."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from profiles.hooks.anchors import OwnHook
from profiles.hooks.course_key import course_of


class FirstCall:
    """Finds the first module that a step calls, in the thread that began the step.

    Attributes:
        is_closed: Whether its hooks have been removed.
    """

    def __init__(self, model: torch.nn.Module, then: Callable[[str], None]) -> None:
        """Hooks every module; `then` is handed the step's course before the first one runs."""
        self._model = model
        self._then = then
        self.is_closed = False
        self._thread: int | None = None
        self._handles: list[Any] = []
        for name, module in model.named_modules():
            hook = OwnHook(partial(self._on_forward, name))
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def begin(self) -> None:
        """Waits for the first call from now on."""
        self._thread = threading.get_ident()

    def end(self) -> None:
        """Waits for none."""
        self._thread = None

    def close(self) -> None:
        """Removes the hooks; it may be called again."""
        self.end()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.is_closed = True

    def _on_forward(self, name: str, _: object, args: Any, kwargs: Any) -> None:
        # In this order: torch.compile traces this too, and cannot trace what the second one asks.
        if self._thread is None or self._thread != threading.get_ident():
            return
        self._thread = None
        self._then(course_of(name, self._model.training, args, kwargs))
