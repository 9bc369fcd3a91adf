"""What `plan run` writes of the steps that it timed under the plan."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from planner.cli.output import wrote
from profiles.schema.errors import QuantityError
from profiles.schema.files import check_writable

if TYPE_CHECKING:
    from planner.plan.plan import Plan
    from profiles.hooks.workload import Workload
    from runtime.replay.replay import Replay


@dataclass
class MeasuredFiles:
    """The files asked for, and the replay that is timed for them.

    Attributes:
        trace: Where the trace goes; None if there shall be none.
        slots: Where the slots' times go; None if they shall not.
    """

    trace: Path | None
    slots: Path | None
    _traced: list["Replay"] = field(default_factory=list)

    @property
    def asked_for(self) -> bool:
        """Whether there is anything to write."""
        return self.trace is not None or self.slots is not None

    def check(self, workers: int | None) -> None:
        """Fails now, not after the training, if something cannot be written.

        Raises:
            FileError: A path cannot be written.
            QuantityError: There are several workers, each in a process of its own.
        """
        if self.asked_for and workers is not None:
            raise QuantityError(
                f"--workers {workers} does not go with --trace or --slots, which time this "
                "process. Trace a worker from Python with LoadedPlan.attach_traced."
            )
        for path in (self.trace, self.slots):
            if path is not None:
                check_writable(path)

    def attach(self, plan: "Plan", workload: "Workload") -> "Replay":
        """Attaches a plan to a workload, to be timed from within."""
        from runtime.replay.load import LoadedPlan

        replay = LoadedPlan(plan).attach_traced(workload.model, workload.optimizer)
        self._traced.append(replay)
        return replay

    def write(self, plan: "Plan", timed_steps: int) -> None:
        """Writes the files asked for.

        Args:
            plan: The plan that was replayed.
            timed_steps: The last so many steps count; the ones before were watched.
        """
        measured = self._traced[0].timelines()[-timed_steps:] if self._traced else ()
        if not measured:
            if self.asked_for:
                print("plan: no step was replayed to its end: none to write", file=sys.stderr)
            return
        if self.trace is not None:
            from planner.report.measured_trace import write_trace_beside_simulated
            from runtime.proof.measured_steps import typical

            write_trace_beside_simulated(plan, typical(measured), self.trace)
            wrote(self.trace)
        if self.slots is not None:
            from planner.report.measured_slots import slot_times_table, write_slot_times

            write_slot_times(slot_times_table(plan, measured), self.slots)
            wrote(self.slots)
