"""What replayed steps did, measured: each one, and all of a replay so far."""

import logging
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median

from planner.plan.plan import Plan
from profiles.schema.profile import CPU
from profiles.schema.units import size_text, time_text
from runtime.storage.memory_curve import MemoryDifference

KEPT_STEPS = 1024

LOG = logging.getLogger("swapplan")


class FallbackWarning(RuntimeWarning):
    """A step did not run as planned; warned of once for each replay and kind of event."""


@dataclass(kw_only=True)
class StepStatistics:
    """Figures of one step; all measured.

    On CUDA the host runs ahead of the device: there `stall_us` is 0, since the host waits for no
    copy, and `duration_us` ends when the host has issued the step. A replay that is traced times
    the device itself (`Replay.timelines`).

    Attributes:
        step: Number of the step since `attach`, from 0.
        fallback: Why the step fell back to resident; None if it was replayed to the end. That
            another worker fell back is known when the next step begins.
        left_plan: Why the step left the plan and was swapped on line from there, within the budget
            (`runtime.replay.first_step`); None if it did not.
        shortcut: Where the step skipped an update and went on by the plan behind it
            ([Note: shortcuts] in `runtime.replay.running_step`); None if it did not.
        d2h_bytes: Bytes copied to the host; 0 in a step that is swapped on line.
        h2d_bytes: Bytes copied back, likewise.
        stall_us: Time the host waited for copies; on the emulated device the host computes, so
            this is the time compute waited.
        overrun_us: How much longer copies took on this machine than on the planned link.
        skipped_swaps: Swaps of storages that do not exist yet, such as lazy optimizer states, and
            storages that were freed before the plan was done with them.
        on_line: Whether the step made what the plan moves, or has left the plan, and so was kept
            within the budget without it (see `runtime.replay.first_step`).
        rebuilt_bytes: Bytes of dropped storages filled by running ops again.
        ops_run_again: How many ops that took.
        rebuild_us: Time of the host for that.
        capture_us: Time of the host for noting what running them again takes.
        misses: Ops that asked for a storage the plan had away.
        peak_bytes: Most device bytes in storages; None if the step was not watched.
        memory_difference: The first slot whose measured memory was not the planned one; None if it
            was the planned one in all of them, or the step was not watched.
        allocated_peak_bytes: Most bytes that the device's allocator had handed out since
            `torch.cuda.reset_peak_memory_stats` was last called; None on the emulated device.
        host_peak_bytes: High-water mark of the host pool: the end of the highest bytes used.
        prologue_us: Time it took to check that storages are where the last step left them and to
            send away those that are not (see `runtime.replay.swap_index`).
        prologue_bytes: Bytes that were copied to the host then.
        boundary_restores: How often everything was brought back since the step before, because
            what the plan had away was touched between the two.
        duration_us: Wall time of the step.
    """

    step: int
    fallback: str | None = None
    left_plan: str | None = None
    shortcut: str | None = None
    d2h_bytes: int = 0
    h2d_bytes: int = 0
    stall_us: float = 0.0
    overrun_us: float = 0.0
    skipped_swaps: int = 0
    on_line: bool = False
    rebuilt_bytes: int = 0
    ops_run_again: int = 0
    rebuild_us: float = 0.0
    capture_us: float = 0.0
    misses: int = 0
    peak_bytes: int | None = None
    memory_difference: MemoryDifference | None = None
    allocated_peak_bytes: int | None = None
    host_peak_bytes: int = 0
    prologue_us: float = 0.0
    prologue_bytes: int = 0
    boundary_restores: int = 0
    duration_us: float = 0.0

    @property
    def ended_on_plan(self) -> bool:
        """Whether the step was on the plan's course when it ended."""
        return self.fallback is None and not self.on_line

    @property
    def followed_plan(self) -> bool:
        """Whether the step took the plan's course to its end, and skipped nothing."""
        return self.ended_on_plan and self.shortcut is None

    @property
    def compares_memory(self) -> bool:
        """Whether the step's memory says something of the plan.

        It was counted, the step followed the plan, and no swap was left out. The first step of a
        training holds less: not all that lives from step to step is made.
        """
        is_whole = self.followed_plan and self.skipped_swaps == 0
        return is_whole and self.peak_bytes is not None and self.step > 0


class Event(Enum):
    """What a step may do that is not as planned; each is warned of once."""

    FELL_BACK = "it fell back to resident"
    LEFT_PLAN = "it left the plan and was swapped on line"
    EXCEEDED = "it took more than the budget while swapped on line"


class History:
    """All steps of a replay so far.

    Attributes:
        steps: Statistics of the last ones, in order; at most `KEPT_STEPS`.
        step_count: How many have begun.
        fallbacks: How many fell back to resident.
        left_plan: How many left the plan and were swapped on line.
        shortcuts: How many skipped an update.
        boundary_restores: How many times everything was brought back between two steps.
        vouches: Whether the next step may go uncounted; see [Note: unwatched steps] in
            `runtime.replay.replay`.
        is_closed: Whether no step comes any more.
    """

    def __init__(self, plan: Plan) -> None:
        self.steps: deque[StepStatistics] = deque(maxlen=KEPT_STEPS)
        self.step_count = 0
        self.fallbacks = 0
        self.left_plan = 0
        self.shortcuts = 0
        self.boundary_restores = 0
        self.vouches = False
        self.is_closed = False
        self._plan = plan
        self._counted_restores = 0
        self._warned: set[Event] = set()

    def end_prologue(self, now: StepStatistics) -> None:
        """Counts what was brought back before a step to that step."""
        now.boundary_restores = self.boundary_restores - self._counted_restores
        self._counted_restores = self.boundary_restores

    def add(self, now: StepStatistics, *, left_out: bool) -> None:
        """Adds a step that has ended; `left_out` if the rest of a swap was left out of it."""
        self.steps.append(now)
        self.fallbacks += now.fallback is not None
        self.left_plan += now.left_plan is not None and now.fallback is None
        if now.shortcut is not None and now.ended_on_plan:
            self._count_shortcut(now)
        vouches = self.vouches or not (left_out or now.shortcut)
        self.vouches = vouches and now.fallback is None and now.skipped_swaps == 0

    def _count_shortcut(self, now: StepStatistics) -> None:
        self.shortcuts += 1
        if self.shortcuts == 1:
            LOG.info(
                "Step %d skipped an update (%s) and went on by the plan behind it: what the plan "
                "moves for the update was moved all the same. If that is the usual step, record it "
                "again. Logged once.",
                now.step,
                now.shortcut,
            )

    def count_restore(self, what: str) -> None:
        """Everything was brought back between two steps; what asked for it is logged once."""
        self.boundary_restores += 1
        if self.boundary_restores == 1:
            LOG.info(
                "Between two steps %s asked for what the plan has away: everything was brought "
                "back, and the next step sends it away again. Logged once.",
                what,
            )

    def count_fallback_on(self, rank: int | None) -> None:
        """Counts the last step as fallen back if it did so on another worker."""
        if rank is None or not self.steps or self.steps[-1].fallback is not None:
            return
        last = self.steps[-1]
        last.fallback = f"worker {rank} fell back to resident"
        self.fallbacks += 1
        event = f"step {last.step} fell back to resident on worker {rank}"
        self.warn_once(event, Event.FELL_BACK)

    def warn_once(self, event: str, kind: "Event") -> None:
        """Warns that a step did not run as planned, the first time of each kind."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(
                f"{event}. Its numbers are right, its memory is not planned. Record this step "
                "again with 'plan profile' if it is the usual one.",
                FallbackWarning,
                stacklevel=2,
            )

    def close(self) -> None:
        """Logs the summary; no step comes any more. It may be called again."""
        if not self.is_closed:
            self.is_closed = True
            LOG.info("%s", self.summary())

    def summary(self) -> str:
        """Says in one line what was replayed; every figure is measured."""
        if self.step_count == 0:
            return "swapplan: no step was replayed."
        kept = self.steps
        steps = "1 step" if self.step_count == 1 else f"{self.step_count} steps"
        misses = f"{sum(step.misses for step in kept)} misses"
        parts = [steps, _fallback_text(kept, self.fallbacks), misses]
        restores = sum(step.boundary_restores for step in kept)
        if restores:
            parts.append(f"everything brought back {restores} times between steps")
        replayed = [step for step in kept if step.ended_on_plan]
        if replayed:
            parts += [_per_step_text(self._plan, replayed), *_peak_texts(self._plan, replayed)]
        short = [step for step in replayed if step.shortcut is not None]
        if short:
            last = f"last: step {short[-1].step}, {short[-1].shortcut}"
            parts.append(f"{self.shortcuts} skipped an update ({last})")
        left = [step for step in kept if step.left_plan is not None]
        if left:
            last = f"last: step {left[-1].step}, {left[-1].left_plan}"
            parts.append(f"{self.left_plan} left the plan and were swapped on line ({last})")
        on_line = sum(step.on_line and step.left_plan is None for step in kept)
        if on_line:
            parts.append(f"{on_line} made what the plan moves, swapped on line")
        return f"swapplan: {'; '.join(parts)}."


def _fallback_text(kept: Sequence[StepStatistics], fallbacks: int) -> str:
    fallen_back = [step for step in kept if step.fallback is not None]
    last = fallen_back[-1] if fallen_back else None
    why = "" if last is None else f" (last: step {last.step}, {last.fallback})"
    return f"{fallbacks} fell back to resident{why}"


def _per_step_text(plan: Plan, replayed: Sequence[StepStatistics]) -> str:
    def typical(figure: Callable[[StepStatistics], float]) -> float:
        return median(figure(step) for step in replayed)

    texts = [
        time_text(typical(lambda step: step.duration_us)),
        f"{size_text(typical(lambda step: step.d2h_bytes))} out",
        f"{size_text(typical(lambda step: step.h2d_bytes))} in",
    ]
    if plan.rebuilds:
        texts.append(
            f"{size_text(typical(lambda step: step.rebuilt_bytes))} rebuilt by "
            f"{typical(lambda step: step.ops_run_again):.0f} ops in "
            f"{time_text(typical(lambda step: step.rebuild_us))}, noted in "
            f"{time_text(typical(lambda step: step.capture_us))}"
        )
    if plan.device.kind == CPU:
        texts.append(f"stall {time_text(typical(lambda step: step.stall_us))}")
    return f"per step, median of {len(replayed)} measured: {', '.join(texts)}"


def _peak_texts(plan: Plan, replayed: Sequence[StepStatistics]) -> list[str]:
    budget = size_text(plan.budget_bytes)
    texts = []
    watched = [step.peak_bytes for step in replayed if step.peak_bytes is not None]
    if watched:
        texts.append(f"peak {size_text(max(watched))} of the budget's {budget}")
    allocated = [s.allocated_peak_bytes for s in replayed if s.allocated_peak_bytes is not None]
    if allocated:
        texts.append(f"allocator's peak {size_text(max(allocated))}")
    host_bytes = max(step.host_peak_bytes for step in replayed)
    texts.append(f"host pool {size_text(host_bytes)} of {size_text(plan.host_pool_bytes)}")
    return texts
