"""Activation checkpointing that a model has already, kept or switched off for a while.

`torch.utils.checkpoint.checkpoint` drops what a part of the model saves and runs the part again in
backward. Transformers, torch's wrappers of modules and `checkpoint_sequential` all come to it.
Where a plan is to decide what is dropped, the part is run plainly, as if it were not there.

[Note: what is replaced] Models bind the function itself (`from torch.utils.checkpoint import
checkpoint`, `functools.partial`), so another one in its place would not be called. But each call
looks up, among the globals of its module, what does the work: a generator that surrounds the part,
or an autograd function that runs it. These two are replaced while anything is switched off. Modules
that are imported meanwhile may keep the replacement for good: so that asks each time whether
checkpointing is off in this thread, and does what it replaces if not.

[Note: the same numbers] A part that is run once draws the random numbers, and sees the autocast,
that it would be run again with. So numbers are the same, but for what running a part twice shows:

- What a part writes itself, such as the running statistics of BatchNorm, is written once a step
  and not twice.
- With `preserve_rng_state=False` a part that is run again draws other numbers: its gradients are
  not those of its results. Run once, they are.
- The reentrant kind adds the gradients of a weight that several parts use to those of earlier
  batches one by one; otherwise they are added up first. The last bits may differ.

And of the reentrant kind, a part none of whose arguments requires a gradient trains nothing. It is
left to torch, so that it stays so; there is nothing to run again.
"""

import sys
import threading
from collections.abc import Callable, Generator
from types import ModuleType
from typing import Any, Self

import torch
import torch.utils.checkpoint

from profiles.hooks.mode_stack import insist
from profiles.schema.errors import WorkloadError

GENERATOR, FUNCTION = "_checkpoint_without_reentrant_generator", "CheckpointFunction"
"""What `checkpoint` looks up: for the kind that is not reentrant, and for the one that is."""
COMPOSABLE = "torch.distributed._composable.checkpoint_activation"
"""It has bound the generator itself."""

# An interrupt may come right after it is taken; the same thread can take it again.
_lock = threading.RLock()
_off_in: "dict[Checkpointing, int]" = {}
"""The thread in which each of those that are entered has switched checkpointing off."""
_replaced: dict[tuple[ModuleType, str], tuple[Any, Any]] = {}
"""By module and name: what was there, and what is there now. Noted before it is replaced and until
it is back, so an interrupt leaves nothing that the next call of `_put_all_back` does not put right.
"""


class Checkpointing:
    """The checkpointing of a model: kept, or switched off in this thread while this is entered.

    It may be entered again and again, one time after the other; leaving it may be repeated.

    Attributes:
        kept: Whether it is kept; then entering does nothing.
    """

    def __init__(self, *, kept: bool) -> None:
        """Switches nothing yet.

        Raises:
            WorkloadError: It is not to be kept, and this torch does not let it be switched off.
        """
        if not kept:
            _check_can_be_off()
        self.kept = kept

    def __enter__(self) -> Self:
        if self.kept:
            return self
        try:
            with _lock:
                _off_in[self] = threading.get_ident()
                _replace_all()
        except BaseException:
            # Whoever enters it will not leave it.
            self.leave()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Has parts checkpointed again from now on; an interrupt is passed on once that is so."""
        if not self.kept:
            insist(self._leave)

    def _leave(self) -> None:
        with _lock:
            _off_in.pop(self, None)
            if not _off_in:
                _put_all_back()


def without_checkpointing() -> Checkpointing:
    """Returns a context in which this thread's calls of `checkpoint` run their function plainly.

    Raises:
        WorkloadError: This torch does not let checkpointing be switched off.
    """
    return Checkpointing(kept=False)


class _PlainGenerator:
    """In place of what surrounds a part: its context functions are not called either."""

    def __init__(self, original: Callable[..., Generator[None, None, None]]) -> None:
        self.original = original

    def __call__(self, *args: Any, **kwargs: Any) -> Generator[None, None, None]:
        return _nothing_around() if _is_off_here() else self.original(*args, **kwargs)


class _PlainFunction:
    """In place of the autograd function."""

    def __init__(self, original: Any) -> None:
        self.original = original

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)

    def apply(self, function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        """Runs a part; see [Note: the same numbers] for when it is left to torch."""
        trains = any(isinstance(arg, torch.Tensor) and arg.requires_grad for arg in args)
        if trains and _is_off_here():
            return function(*args)
        return self.original.apply(function, preserve_rng_state, *args)


def _nothing_around() -> Generator[None, None, None]:
    yield


def _is_off_here() -> bool:
    # A copy: other threads enter and leave meanwhile.
    return threading.get_ident() in tuple(_off_in.values())


def _check_can_be_off() -> None:
    for name in (GENERATOR, FUNCTION):
        if not hasattr(torch.utils.checkpoint, name):
            raise WorkloadError(
                f"Checkpointing cannot be switched off with torch {torch.__version__}, which has "
                f"no torch.utils.checkpoint.{name}. Leave it on, or switch it off in the model."
            )


def _replace_all() -> None:
    replacements = {GENERATOR: _PlainGenerator, FUNCTION: _PlainFunction}
    for module in (torch.utils.checkpoint, sys.modules.get(COMPOSABLE)):
        for name, replacement in replacements.items():
            found = getattr(module, name, None)
            if module is None or found is None or isinstance(found, replacement):
                continue
            _replaced[module, name] = found, replacement(found)
            setattr(module, name, _replaced[module, name][1])


def _put_all_back() -> None:
    for (module, name), (original, replacement) in tuple(_replaced.items()):
        if getattr(module, name, None) is replacement:
            setattr(module, name, original)
        del _replaced[module, name]
