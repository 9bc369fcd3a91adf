"""Whose bytes they are when a step needs the most memory: module by module."""

import pandas as pd

from planner.module_times import ELSEWHERE, leading_name, slot_modules_table
from planner.tables import storages_table
from profiles.profile import Profile, Storage, StorageKind


def module_bytes_table(profile: Profile, *, depth: int) -> pd.DataFrame:
    """Returns the bytes that each module has on the device at the step's peak, the most first.

    A storage belongs to the module that touches it first, as `storage_modules` says.

    Columns: `module` (index), one per kind that is there, in the order of `StorageKind`, and `all`.

    Args:
        profile: The step.
        depth: How many parts of a module's dotted name count.
    """
    storages = storages_table(profile)
    storages["module"] = [leading_name(name, depth) for name in storage_modules(profile)]
    bytes_of = storages.loc[storages["at_peak"].astype(bool)].pivot_table(
        index="module", columns="kind", values="size_bytes", aggfunc="sum", fill_value=0
    )
    bytes_of = bytes_of[[kind.value for kind in StorageKind if kind.value in bytes_of]]
    bytes_of.columns.name = None
    bytes_of["all"] = bytes_of.sum(axis=1)
    return bytes_of.sort_values("all", ascending=False)


def storage_modules(profile: Profile) -> list[str]:
    """Returns the module of each storage: the one that touches it first.

    That is the one that made an activation, and a parameter's own. `Storage.module` is the module
    entered last, which in backward is that of the end of forward.
    """
    modules = slot_modules_table(profile)["module"]
    return [_first_module(profile, storage, modules) for storage in profile.storages]


def _first_module(profile: Profile, storage: Storage, modules: "pd.Series[str]") -> str:
    ops = [use.op for use in storage.uses[:1]]
    if storage.allocated_op is not None:
        ops.append(storage.allocated_op)
    made = [op for op in ops if op < len(profile.ops)]
    return modules[profile.ops[min(made)].slot] if made else ELSEWHERE
