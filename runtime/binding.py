"""Finds, at replay, the storages a plan speaks of by name.

Parameters, buffers, optimizer states and gradients are found by qualified name; they may be
replaced between steps, so they are looked up anew in every step. Activations are found when their
anchor shows them (`runtime.replay`).
"""

from collections.abc import Callable

import torch

from planner.plan import Plan
from profiles.data_parallel import unwrapped
from profiles.owned import has_storage

Lookup = Callable[[], torch.Tensor | None]


def lookups(
    plan: Plan, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[int, Lookup]:
    """Returns how to find each owned storage that the plan moves, by storage id."""
    moved = {swap.storage for swap in plan.swaps}
    by_name = _lookups_by_name(unwrapped(model), optimizer)
    return {
        storage.id: by_name(storage.name)
        for storage in plan.storages
        if storage.id in moved and not storage.name.startswith("pack:")
    }


def storage_of(tensor: torch.Tensor | None) -> torch.UntypedStorage | None:
    """Returns a tensor's storage, if it is there and has one."""
    if not isinstance(tensor, torch.Tensor) or not has_storage(tensor):
        return None
    return tensor.untyped_storage()


def unheld_name(plan: Plan, model: torch.nn.Module) -> str | None:
    """Returns the name of a storage that the plan moves and the model does not hold.

    A gradient or a state may not have been made yet: then its parameter is looked for.

    Returns:
        The first such name; None if the model holds all of them.
    """
    bare = unwrapped(model)
    parameters = {name for name, _ in bare.named_parameters()}
    buffers = {name for name, _ in bare.named_buffers()}
    moved = {swap.storage for swap in plan.swaps}
    for storage in plan.storages:
        word, _, name = storage.name.partition(":")
        held = {
            "parameter": name in parameters,
            "buffer": name in buffers,
            "grad": name in parameters,
            "state": name.rpartition(".")[0] in parameters,
        }
        if storage.id in moved and not held.get(word, True):
            return storage.name
    return None


def _tensor(value: object) -> torch.Tensor | None:
    return value if isinstance(value, torch.Tensor) else None


def _lookups_by_name(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> Callable[[str], Lookup]:
    parameters = dict(model.named_parameters())
    owners = dict(model.named_modules())

    def parameter(name: str) -> Lookup:
        return lambda: parameters.get(name)

    def buffer(name: str) -> Lookup:
        owner, _, attribute = name.rpartition(".")
        holder = owners.get(owner)
        # A module has attributes that are no buffers, and parameters that are found as such.
        return lambda: None if holder is None else holder._buffers.get(attribute)

    def gradient(name: str) -> Lookup:
        owner = parameters.get(name)
        return lambda: None if owner is None else owner.grad

    def state(name: str) -> Lookup:
        owner, _, key = name.rpartition(".")
        holder = parameters.get(owner)
        return lambda: _tensor(None if holder is None else optimizer.state.get(holder, {}).get(key))

    makers = {"parameter": parameter, "buffer": buffer, "grad": gradient, "state": state}

    def lookup(name: str) -> Lookup:
        kind, _, qualified = name.partition(":")
        return makers[kind](qualified) if kind in makers else lambda: None

    return lookup
