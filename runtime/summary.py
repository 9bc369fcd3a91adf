"""All steps of a replay in one line."""

from collections.abc import Callable, Sequence
from statistics import median

from planner.plan import Plan
from profiles.quantities import size_text, time_text
from runtime.statistics import StepStatistics


def summary_line(
    plan: Plan, kept: Sequence[StepStatistics], *, step_count: int, fallbacks: int
) -> str:
    """Says in one line what was replayed; every figure is measured.

    Args:
        plan: What was replayed.
        kept: Statistics of the last steps.
        step_count: How many steps there were in all.
        fallbacks: How many of those fell back to resident.
    """
    if step_count == 0:
        return "swapplan: no step was replayed."
    steps = "1 step" if step_count == 1 else f"{step_count} steps"
    parts = [steps, _fallback_text(kept, fallbacks), _misses_text(kept)]
    restores = sum(step.boundary_restores for step in kept)
    if restores:
        parts.append(f"everything brought back {restores} times between steps")
    replayed = [step for step in kept if step.fallback is None and not step.on_line]
    if replayed:
        parts += [_per_step_text(plan, replayed), *_peak_texts(plan, replayed)]
    on_line = sum(step.on_line for step in kept)
    if on_line:
        parts.append(f"{on_line} made what the plan moves, swapped on line")
    return f"swapplan: {'; '.join(parts)}."


def _fallback_text(kept: Sequence[StepStatistics], fallbacks: int) -> str:
    last = next((step for step in reversed(kept) if step.fallback is not None), None)
    why = "" if last is None else f" (last: step {last.step}, {last.fallback})"
    return f"{fallbacks} fell back to resident{why}"


def _misses_text(kept: Sequence[StepStatistics]) -> str:
    return f"{sum(step.misses for step in kept)} misses"


def _per_step_text(plan: Plan, replayed: Sequence[StepStatistics]) -> str:
    def typical(figure: Callable[[StepStatistics], float]) -> float:
        return median(figure(step) for step in replayed)

    texts = [
        time_text(typical(lambda step: step.duration_us)),
        f"{size_text(typical(lambda step: step.d2h_bytes))} out",
        f"{size_text(typical(lambda step: step.h2d_bytes))} in",
    ]
    if plan.device.kind == "cpu":
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
