"""Where the time of a step goes: which module's forward, backward or update it is."""

from collections.abc import Iterator
from enum import StrEnum

import pandas as pd

from planner.report.tables import storages_table
from profiles.schema.profile import BEGIN, Profile, Storage, StorageKind

ELSEWHERE = "(outside modules)"
"""Before the first module is entered, and what the optimizer does that is no parameter's update."""


class Phase(StrEnum):
    """A part of a training step."""

    FORWARD = "forward"
    BACKWARD = "backward"
    OPTIMIZER = "optimizer"


def slot_modules_table(profile: Profile) -> pd.DataFrame:
    """Returns the module and the phase that each slot belongs to.

    Columns: `slot` (index), `module`, `phase` (a `Phase`), `duration_us`.

    Forward slots belong to the leaf module entered last. Backward does not enter modules: a slot
    belongs to the module that saved the tensor asked for last, or whose gradient was accumulated
    last, whichever came later. Inside the optimizer it is the module of the parameter updated.
    """
    rows = list(_walk(profile))
    table = pd.DataFrame(rows, columns=["module", "phase"])
    table["duration_us"] = [slot.duration_us for slot in profile.slots]
    table.index.name = "slot"
    return table


def module_times_table(profile: Profile, *, depth: int) -> pd.DataFrame:
    """Returns the time of each module in each phase, the longest first.

    Columns: `module` (index), `forward`, `backward`, `optimizer` and `all`, in microseconds. `all`
    adds up to the step.

    Args:
        profile: The step.
        depth: How many parts of a module's dotted name count: 1 for `encoder`, 2 for `encoder.3`.
    """
    slots = slot_modules_table(profile)
    slots["module"] = [leading_name(name, depth) for name in slots["module"]]
    times = slots.pivot_table(
        index="module", columns="phase", values="duration_us", aggfunc="sum", fill_value=0.0
    )
    times = times.reindex(columns=[phase.value for phase in Phase], fill_value=0.0)
    times.columns.name = None
    times["all"] = times.sum(axis=1)
    return times.sort_values("all", ascending=False)


def operator_times_table(profile: Profile) -> pd.DataFrame:
    """Returns the time of each operator, the longest first.

    Columns: `operator` (index), `calls`, `duration_us` (its ops' own time, without what passes
    between ops), `share` (of all operators).
    """
    ops = pd.DataFrame(
        {
            "operator": [op.name for op in profile.ops],
            "calls": 1,
            "duration_us": [op.duration_us for op in profile.ops],
        }
    )
    table = ops.groupby("operator").sum().sort_values("duration_us", ascending=False)
    table["share"] = table["duration_us"] / max(table["duration_us"].sum(), 1e-9)
    return table


def leading_name(module: str, depth: int) -> str:
    """Returns the first parts of a module's dotted name."""
    return ".".join(module.split(".")[:depth])


def _walk(profile: Profile) -> Iterator[tuple[str, str]]:
    module, phase = ELSEWHERE, Phase.FORWARD
    saved_in: dict[str, str] = {}
    for slot in profile.slots:
        # An anchor that comes again in the step has a count behind its name.
        word, _, name = slot.anchor.split("#")[0].partition(":")
        if word in ("pre", "pack"):
            phase = Phase.FORWARD
        elif word in ("unpack", "grad"):
            phase = Phase.BACKWARD
        elif word in ("optimizer", "update"):
            phase = Phase.OPTIMIZER
        if word == "pre":
            module = name
        elif word == "pack":
            saved_in[name] = module
        elif word == "unpack":
            module = saved_in.get(name, module)
        elif word in ("grad", "update"):
            module = name.rpartition(".")[0] or ELSEWHERE
        elif word in (BEGIN, "optimizer"):
            module = ELSEWHERE
        yield module, phase.value


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
