"""Runs captured ops once more, on fresh memory, as they ran the first time and unseen by anybody.

[Note: running again] Nothing that torch does around ops may happen here: no graph is built, nothing
is cast (casts are ops of their own), no mode, hook or subclass is asked, no anchor is passed. That
is switched off by guards of torch's C++ side, which end when they are freed at the latest: an
interrupt leaves none of them on. The one for functions does not; it is put back as generators are,
by whatever comes next. A random op draws from the state that its
generator had; afterwards every generator is as it was before. Ops that write do so on memory that
was made here, so no version that autograd counts moves.

What an op makes lives until the last op that touches it, as it does for the recorder: what ends
with an op counts until that has ended. On CUDA all of it runs on the stream that is current where
this is called, which is the one that goes on with the step.
"""

from collections.abc import Callable, Collection
from functools import cache
from typing import Any, TypeVar

import torch

from profiles.hooks.dispatch import RunOp
from profiles.hooks.mode_stack import insist, unseen
from runtime.recompute.captured_op import CapturedOp, Fresh, last_uses
from runtime.recompute.generators import LentGenerators
from runtime.recompute.noted_storage import NotedStorage

Done = TypeVar("Done")

Memory = dict[NotedStorage, torch.UntypedStorage]
"""The memory that holds what ops have left of storages."""


class RunningAgain:
    """Runs recipes of one training."""

    def __init__(self, run: RunOp) -> None:
        """Prepares to.

        Args:
            run: Runs one op; counts its memory, if that is counted.
        """
        self._run = run
        self._generators = LentGenerators()
        # Who is asked for calls of functions, while that is nobody.
        self._asked: Any = None

    def recover(self) -> None:
        """Ends what an interrupt has left undone; may be called at any time."""
        self._generators.put_back()
        if self._asked is not None:
            _set_asked(self._asked)
            self._asked = None

    def unasked(self, do: Callable[[], Done]) -> Done:
        """Does something while no mode and no subclass is asked for calls of functions."""
        self._asked = torch._C._get_torch_function_state()  # type: ignore[attr-defined]
        try:
            _set_asked(torch._C._TorchFunctionState.ALL_DISABLED)  # type: ignore[attr-defined]
            return do()
        finally:
            insist(self.recover)

    def run(self, ops: tuple[CapturedOp, ...], wanted: Collection[NotedStorage]) -> Memory:
        """Runs ops in order; inside `unasked`.

        Args:
            ops: The ops.
            wanted: Storages that they make.

        Returns:
            The memory that holds for each of them what the ops have left there.

        Raises:
            UnfitOpError: An op needs a storage that is not there.
            torch.OutOfMemoryError: The device has no room.
        """
        with (
            unseen(),
            torch._C._InferenceMode(False),
            torch._C._AutoDispatchBelowAutograd(),
            torch._C._ExcludeDispatchKeyGuard(_casting()),
        ):
            return self._run_all(ops, wanted)

    def _run_all(self, ops: tuple[CapturedOp, ...], wanted: Collection[NotedStorage]) -> Memory:
        last_use = last_uses(ops)
        fresh: Fresh = {}
        for number, op in enumerate(ops):
            if op.draw is not None:
                self._generators.set(op.draw)
            op.run_again(fresh, self._run)
            for storage in op.touched:
                if last_use[storage] == number and storage not in wanted:
                    fresh.pop(storage, None)
        return {storage: fresh[storage][0].untyped_storage() for storage in wanted}


def most_bytes_at_once(
    ops: tuple[CapturedOp, ...], wanted: Collection[NotedStorage]
) -> tuple[int, ...]:
    """Returns the sizes of all that ops hold where what they make takes the most memory."""
    last_use = last_uses(ops)
    alive: dict[NotedStorage, int] = {}
    most: tuple[int, ...] = ()
    for number, op in enumerate(ops):
        alive.update((storage, storage.size_bytes) for storage in op.made)
        most = max(most, tuple(alive.values()), key=sum)
        for storage in op.touched:
            if last_use[storage] == number and storage not in wanted:
                alive.pop(storage, None)
    return most


def _set_asked(state: Any) -> None:
    """Sets who is asked for calls of functions."""
    torch._C._set_torch_function_state(state)  # type: ignore[attr-defined]


@cache
def _casting() -> torch._C.DispatchKeySet:
    """The keys by which autocast gets at ops, on all kinds of device."""
    keys = torch._C.DispatchKey
    names = [name for name in dir(keys) if name.startswith("Autocast") and name != "Autocast"]
    found = torch._C.DispatchKeySet(keys.AutocastCPU)
    for name in names:
        found = found | torch._C.DispatchKeySet(getattr(keys, name))
    return found
