"""Room for two trainings beside each other on an accelerator.

[Note: two trainings on one device] Many tests train with a plan and without in turns. The emulated
accelerator counts the bytes of each by itself. The allocator of a real one counts all of the
process, and steps that are swapped on line make room by its count: beside another training they
would find none within the plan's budget.
"""

import gc

import torch

from planner.plan.plan import Plan
from profiles.recording.allocator_peaks import rounded_bytes
from profiles.schema.memory import GRANULE_BYTES
from profiles.schema.profile import CPU, StorageKind

MIB = 1 << 20
LASTING = (
    StorageKind.PARAMETER,
    StorageKind.BUFFER,
    StorageKind.OPTIMIZER_STATE,
    StorageKind.GRADIENT,
)


def beside_another(plan: Plan) -> Plan:
    """Gives a plan's budget room for what another training like it holds between two steps."""
    if plan.device.kind == CPU:
        return plan
    lasting = [storage.size_bytes for storage in plan.storages if storage.kind in LASTING]
    held_bytes = sum(rounded_bytes(size_bytes, GRANULE_BYTES) for size_bytes in lasting)
    # Whole MiB, for its batch and its loss.
    room_bytes = rounded_bytes(held_bytes, MIB)
    return plan.model_copy(update={"budget_bytes": plan.budget_bytes + room_bytes})


def collect_circles(device: torch.device) -> None:
    """Collects what trainings have left in circles, where an allocator would count it."""
    if device.type != CPU:
        gc.collect()
