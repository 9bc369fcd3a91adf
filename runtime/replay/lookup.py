"""Finds, at replay, the storages a plan speaks of by name.

Parameters, buffers, optimizer states and gradients are found by qualified name; they may be
replaced between steps, so they are looked up anew in every step. Activations are found when their
anchor shows them (`runtime.replay.replay`).
"""

from collections.abc import Callable, Collection

import torch

from planner.plan.plan import Plan
from profiles.hooks.data_parallel import unwrapped
from profiles.hooks.named_storages import PART
from profiles.hooks.plain_tensors import only_plain, part_at, version_of

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


def write_counts(
    plan: Plan, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[int, Callable[[], int]]:
    """Returns how autograd counts the writes of each storage that `lookups` finds.

    An op that writes a wrapper counts for the wrapper and not for what is behind it; what writes
    that directly counts for it alone. So both are asked.
    """
    by_name = _lookups_by_name(unwrapped(model), optimizer)
    return {
        storage_id: _count(by_name, lookup, plan.storage(storage_id).name)
        for storage_id, lookup in lookups(plan, model, optimizer).items()
    }


def storage_of(tensor: torch.Tensor | None) -> torch.UntypedStorage | None:
    """Returns the storage of a tensor, or of the one that it wraps, if there is one."""
    plain = only_plain(tensor)
    return None if plain is None else plain.untyped_storage()


def _count(by_name: Callable[[str], Lookup], lookup: Lookup, name: str) -> Callable[[], int]:
    asked = [lookup]
    if PART in name:
        asked.append(by_name(name.partition(PART)[0]))

    def count() -> int:
        return sum(version_of(found) for one in asked if (found := one()) is not None)

    return count


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
        whole = name.partition(PART)[0]
        held = any(_held(one, word, parameters, buffers) for one in (name, whole))
        if storage.id in moved and not held:
            return storage.name
    return None


def _held(name: str, word: str, parameters: Collection[str], buffers: Collection[str]) -> bool:
    held = {
        "parameter": name in parameters,
        "buffer": name in buffers,
        # A second gradient of one step is named after its anchor, with a count.
        "grad": name.partition("#")[0] in parameters,
        "state": name.rpartition(".")[0] in parameters,
    }
    return held.get(word, True)


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

    def whole_or_part(name: str) -> Lookup:
        owner, part, path = name.partition(PART)
        if not part:
            return lookup(name)
        whole, holder = lookup(name), lookup(owner)
        # A name may have the sign in it, too.
        return lambda: part_at(holder(), path) if (found := whole()) is None else found

    return whole_or_part
