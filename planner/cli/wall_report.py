"""Why a budget cannot be met, as `plan solve` prints it."""

from collections.abc import Iterator

from planner.cli.output import print_line, print_table
from planner.smallest_budget import BudgetWall, Stays, UnmetBudgetError
from profiles.schema.profile import OPTIMIZER_PRE
from profiles.schema.units import size_text, size_text_up

TOP = 8
"""How many storages are listed by name."""

LOWERED_BY = {
    Stays.IN_USE: "less work in this op: a smaller batch, crop, sequence or layer",
    Stays.NO_ANCHOR: "smaller modules: the runtime can act only at anchors, and none comes between",
    Stays.NEVER_SHOWN: "a smaller step; the runtime never gets hold of these",
    Stays.NOT_RESIZABLE: "a clone() of what is memory-mapped or comes from NumPy: torch owns that",
    Stays.EXCHANGED: "DistributedDataParallel(gradient_as_bucket_view=True): gradients in buckets",
    Stays.RESIZED: "memory of one size: what is resized within a step cannot be planned for",
    Stays.TOO_SMALL: "a smaller --min-size",
    Stays.HOST_BUDGET: "a larger --host-budget",
    Stays.KEPT: "letting go of it before this op: del, or zero_grad(set_to_none=True) earlier",
    Stays.BOUNDARY: "letting go of it before the step ends",
    Stays.BEYOND: "a smaller step",
}

MULTI_TENSOR_OPS = ("_foreach_", "_fused_")
"""In the names of ops that update many parameters at once."""


def print_wall(error: UnmetBudgetError) -> None:
    """Prints the error, and then what sets the smallest budget and what would lower it."""
    wall = error.wall
    # First, and on its own, what every error says; a reader of stdout alone needs it too.
    print_line(f"plan: {' '.join(str(error).splitlines())}", error=True)
    print_table(
        f"On the device with everything away that can be: {wall.place}",
        ("storage", "kind", "module", "bytes", "stays because"),
        _largest_rows(wall),
        right=("bytes",),
    )
    print_table(
        "What would lower it",
        ("stays because", "storages", "bytes", "lowered by"),
        [
            (
                _reason_text(wall, reason),
                str(sum(held.stays is reason for held in wall.held)),
                size_text(size_bytes),
                _lowered_by(wall, reason),
            )
            for reason, size_bytes in wall.bytes_by_reason.items()
        ],
        right=("storages", "bytes"),
    )
    print(
        f"If slot {wall.slot} needed nothing, the smallest budget would be "
        f"{size_text_up(wall.next_bytes)}."
    )


def _largest_rows(wall: BudgetWall) -> Iterator[tuple[str, ...]]:
    for held in wall.held[:TOP]:
        kind = "" if held.stays is Stays.BEYOND else held.kind.value
        yield held.name, kind, held.module, size_text(held.size_bytes), held.stays.value
    others = wall.held[TOP:]
    if others:
        others_bytes = sum(held.size_bytes for held in others)
        yield f"{len(others)} others", "", "", size_text(others_bytes), ""


def _reason_text(wall: BudgetWall, reason: Stays) -> str:
    if reason is Stays.TOO_SMALL:
        return f"{reason.value} ({size_text(wall.min_size_bytes)})"
    return reason.value


def _lowered_by(wall: BudgetWall, reason: Stays) -> str:
    in_optimizer = reason in (Stays.IN_USE, Stays.NO_ANCHOR)
    if in_optimizer and any(part in wall.op for part in MULTI_TENSOR_OPS):
        return "foreach=False and fused=False in the optimizer: one parameter after the other"
    # A recording with anchors inside the optimizer step has next to nothing in this slot.
    if reason is Stays.NO_ANCHOR and wall.anchor == OPTIMIZER_PRE:
        return "recording again: 'plan profile' finds an anchor for each parameter's update now"
    return LOWERED_BY[reason]
