"""Finds the course of a step when it calls its first module: by what that is handed, and by rhythm.

[Note: steps that begin alike] What the first module is handed does not tell apart the two updates
of networks that train each other, if both begin with the generator, or the last window of an epoch
that adds up fewer batches. What such a step does is known at its end: its signature is a digest of
the modules that its forward calls and of the optimizers' updates. Where the signatures of steps
that begin alike come in a rhythm, the next one is foreseen. A course that is foreseen wrongly
does no harm: the step leaves its plan, or cannot be recorded, as one that nobody foresaw.
"""

import threading
import zlib
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from profiles.hooks.anchors import OwnHook
from profiles.hooks.course_key import beginning_of, signature_text, with_signature
from profiles.hooks.rhythm import Rhythm
from profiles.hooks.several_optimizers import each_optimizer

TIMES_FORESEEN = 3
"""In a row, and a step of some kind is no surprise any more."""


class Beginning:
    """Steps that begin alike.

    Attributes:
        text: What their first module is handed.
        likely: The signature that the step under way is expected to have; empty if none is.
    """

    def __init__(self, text: str) -> None:
        """There were none yet."""
        self.text = text
        self.likely = ""
        self._foreseen: Counter[str] = Counter()
        self._first = ""
        self._rhythm = Rhythm()

    def foresee(self) -> str:
        """Returns the course that the next step is expected to take.

        It is named by its beginning alone as long as no other is known.
        """
        self.likely = self._rhythm.next()
        is_another = "" not in (self._first, self.likely) and self.likely != self._first
        return with_signature(self.text, self.likely) if is_another else self.text

    def add(self, signature: str) -> None:
        """A step has ended."""
        is_foreseen = signature == self.likely
        self._foreseen[signature] = self._foreseen[signature] + 1 if is_foreseen else 0
        self._rhythm.add(signature)

    def possible(self) -> set[str]:
        """Returns what the step under way may turn out to be.

        That is all there was, less what was foreseen several times in a row whenever it came.
        """
        if not self.likely:
            return set(self._foreseen)
        surprises = {one for one, times in self._foreseen.items() if times < TIMES_FORESEEN}
        return surprises | {self.likely}

    def confirm(self, signature: str) -> None:
        """Has the course that is named by the beginning alone be the one of a signature."""
        self._first = self._first or signature


class CourseFinder:
    """Finds the course of each step, in the thread that began it.

    Attributes:
        beginning: That of the step under way, or of the last one.
        signature: What the last step did; empty if it called no module, or was not brought to its
            end.
        is_closed: Whether its hooks have been removed.
    """

    def __init__(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, then: Callable[[str], None]
    ) -> None:
        """Hooks every module; `then` is handed the step's course before the first one runs."""
        self.beginning: Beginning | None = None
        self.signature = ""
        self.is_closed = False
        self._model = model
        self._then = then
        self._beginnings: dict[str, Beginning] = {}
        self._thread: int | None = None
        self._calls = self._updates = self._digest = 0
        self._handles: list[Any] = []
        for name, module in model.named_modules():
            hook = OwnHook(partial(self._on_forward, name))
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        for number, one in enumerate(each_optimizer(optimizer)):
            hook = OwnHook(partial(self._on_update, b"update %d" % number))
            self._handles.append(one.register_step_pre_hook(hook))

    def begin(self) -> None:
        """Waits for a step's first call from now on."""
        self.beginning = None
        self._calls = self._updates = self._digest = 0
        self._thread = threading.get_ident()

    def end(self, *, is_whole: bool) -> None:
        """Ends a step; one that an exception has cut short has no signature."""
        self._thread = None
        self.signature = ""
        if self.beginning is not None and is_whole:
            self.signature = signature_text(self._calls, self._updates, self._digest)
            self.beginning.add(self.signature)

    def confirm(self) -> None:
        """The step that has just ended took the course that was expected."""
        if self.beginning is not None and self.signature:
            self.beginning.confirm(self.signature)

    def close(self) -> None:
        """Removes the hooks; it may be called again."""
        self._thread = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.is_closed = True

    def _on_forward(self, name: str, _: object, args: Any, kwargs: Any) -> None:
        # In this order: torch.compile traces this too, and cannot trace what the second one asks.
        if self._thread is not None and self._thread == threading.get_ident():
            self._thread = None
            self._begin(name, args, kwargs)
        if not torch.compiler.is_compiling():
            self._on_call(name)

    def _begin(self, name: str, args: Any, kwargs: Any) -> None:
        text = beginning_of(name, self._model.training, args, kwargs)
        self.beginning = self._beginnings.setdefault(text, Beginning(text))
        self._then(self.beginning.foresee())

    def _on_call(self, name: str) -> None:
        # Checkpoints call their modules again in backward; a step that is planned may have none.
        if torch._C._current_graph_task_id() == -1:
            self._calls += 1
            self._note(b"call " + name.encode())

    def _on_update(self, what: bytes, *_: object) -> None:
        self._updates += 1
        self._note(what)

    def _note(self, what: bytes) -> None:
        self._digest = zlib.crc32(what, self._digest)
