"""Measured memory, anchor by anchor, beside what the plan says of it.

The accountant of a watched step counts the same bytes at the same points as the recorder did (see
[Note: the event line] in `profiles.schema.profile`), so the most bytes it counts in a slot are
those that the plan announces for that slot, to the byte. If they are not, the step is another one
than the recorded one, and the first slot where they differ says where.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from planner.plan.device_memory import planned_bytes
from planner.plan.plan import Plan
from runtime.storage.accountant import Counted


@dataclass(frozen=True, kw_only=True)
class MemoryDifference:
    """The first slot of a step whose measured memory is not the planned one.

    Attributes:
        step: Number of the step.
        anchor: The anchor that opens the slot.
        measured_bytes: The most bytes counted in the slot.
        planned_bytes: What the plan announces for it.
        storage: What makes the difference, as far as that is known.
    """

    step: int
    anchor: str
    measured_bytes: int
    planned_bytes: int
    storage: str

    @property
    def excess_bytes(self) -> int:
        """How much more was measured than planned; below 0 if less."""
        return self.measured_bytes - self.planned_bytes

    def __str__(self) -> str:
        how = "more" if self.excess_bytes > 0 else "fewer"
        return (
            f"step {self.step} holds {abs(self.excess_bytes):,} bytes {how} than planned at anchor "
            f"{self.anchor!r}: {self.measured_bytes:,} instead of {self.planned_bytes:,}"
            f"{f' ({self.storage})' if self.storage else ''}"
        )


class MemoryCurve:
    """Compares one step after the other with a plan.

    Attributes:
        difference: The first difference of the step under way; None so far.
    """

    def __init__(self, plan: Plan) -> None:
        self.difference: MemoryDifference | None = None
        self._step = 0
        self._anchors = tuple(slot.anchor for slot in plan.slots)
        self._planned_bytes = planned_bytes(plan)

    def begin(self, step: int) -> None:
        """Begins a step."""
        self._step = step
        self.difference = None

    def compare(
        self, slots: range, measured_bytes: int, alive: Callable[[], Iterable[Counted]]
    ) -> None:
        """Compares the memory of slots that have just ended: one, or several passed over together.

        What is counted now, `alive`, is asked for only if there is a difference.
        """
        expected_bytes = max(self._planned_bytes[slots.start : slots.stop], default=0)
        if self.difference is not None or measured_bytes == expected_bytes:
            return
        self.difference = MemoryDifference(
            step=self._step,
            anchor=self._anchors[slots.start],
            measured_bytes=measured_bytes,
            planned_bytes=expected_bytes,
            storage=_named(measured_bytes - expected_bytes, tuple(alive())),
        )


def _named(excess_bytes: int, alive: Sequence[Counted]) -> str:
    """Names what is there and was not planned; the newest if several are as large."""
    if excess_bytes < 0:
        return f"storages of {-excess_bytes:,} bytes that the recorded step held are not there"
    fitting = [counted for counted in alive if counted.size_bytes == excess_bytes]
    if not fitting:
        return ""
    made_by = fitting[-1].made_by
    return f"as large as a storage that {f'{made_by} made' if made_by else 'was there before'}"
