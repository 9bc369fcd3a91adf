"""Finds, at replay, the storages a plan speaks of by name.

Parameters, buffers, optimizer states and gradients are found by qualified name; they may be
replaced between steps, so they are looked up anew in every step. Activations are found when their
anchor shows them (`runtime.replay.stepper`).
"""

from collections.abc import Callable, Collection

import torch

from planner.plan.plan import Plan
from profiles.hooks.data_parallel import unwrapped
from profiles.hooks.named_storages import PART
from profiles.hooks.plain_tensors import only_plain, part_at, version_of

Lookup = Callable[[], torch.Tensor | None]


def storage_of(tensor: torch.Tensor | None) -> torch.UntypedStorage | None:
    """Returns the storage of a tensor, or of the one that it wraps, if there is one."""
    plain = only_plain(tensor)
    return None if plain is None else plain.untyped_storage()


class Lookups:
    """Finds what a model and its optimizer own, by the names of `profiles.hooks.named_storages`."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        bare = unwrapped(model)
        self._parameters = dict(bare.named_parameters())
        self._modules = dict(bare.named_modules())
        self._optimizer = optimizer
        self._makers: dict[str, Callable[[str], Lookup]] = {
            "parameter": self._parameter,
            "buffer": self._buffer,
            "grad": self._gradient,
            "state": self._state,
        }

    def find(self, name: str) -> Lookup:
        """Returns how to find a storage's tensor; it finds nothing while there is none."""
        owner, part, path = name.partition(PART)
        if not part:
            return self._find_whole(name)
        whole, holder = self._find_whole(name), self._find_whole(owner)
        # A name may have the sign in it, too.
        return lambda: part_at(holder(), path) if (found := whole()) is None else found

    def count_writes(self, name: str) -> Callable[[], int]:
        """Returns how autograd counts the writes of a storage.

        An op that writes a wrapper counts for the wrapper and not for what is behind it; what
        writes that directly counts for it alone. So both are asked.
        """
        asked = [self.find(name)]
        if PART in name:
            asked.append(self.find(name.partition(PART)[0]))
        return lambda: sum(version_of(found) for one in asked if (found := one()) is not None)

    def _find_whole(self, name: str) -> Lookup:
        kind, _, qualified = name.partition(":")
        return self._makers[kind](qualified) if kind in self._makers else lambda: None

    def _parameter(self, name: str) -> Lookup:
        return lambda: self._parameters.get(name)

    def _buffer(self, name: str) -> Lookup:
        owner, _, attribute = name.rpartition(".")
        holder = self._modules.get(owner)
        # A module has attributes that are no buffers, and parameters that are found as such.
        return lambda: None if holder is None else holder._buffers.get(attribute)

    def _gradient(self, name: str) -> Lookup:
        owner = self._parameters.get(name)
        return lambda: None if owner is None else owner.grad

    def _state(self, name: str) -> Lookup:
        owner, _, key = name.rpartition(".")
        holder = self._parameters.get(owner)

        def found() -> torch.Tensor | None:
            # Loading a state_dict replaces all states, and what holds them.
            states = {} if holder is None else self._optimizer.state.get(holder, {})
            value = states.get(key)
            return value if isinstance(value, torch.Tensor) else None

        return found


def unheld_name(plan: Plan, model: torch.nn.Module) -> str | None:
    """Returns the first name of a storage that the plan moves and the model does not hold.

    A gradient or a state may not have been made yet: then its parameter is looked for.
    """
    bare = unwrapped(model)
    parameters = {name for name, _ in bare.named_parameters()}
    buffers = {name for name, _ in bare.named_buffers()}
    moved = {swap.storage for swap in plan.swaps}
    for storage in plan.storages:
        word, _, name = storage.name.partition(":")
        whole = name.partition(PART)[0]
        held = any(_is_held(one, word, parameters, buffers) for one in (name, whole))
        if storage.id in moved and not held:
            return storage.name
    return None


def _is_held(name: str, word: str, parameters: Collection[str], buffers: Collection[str]) -> bool:
    held = {
        "parameter": name in parameters,
        "buffer": name in buffers,
        # A second gradient of one step is named after its anchor, with a count.
        "grad": name.partition("#")[0] in parameters,
        "state": name.rpartition(".")[0] in parameters,
    }
    return held.get(word, True)
