"""Steps replayed for their times."""

from planner.plan.plan import Plan
from planner.plan.simulate import Timeline
from profiles.hooks.workload import Workload
from profiles.schema.errors import PlanMismatchError
from runtime.replay.load import LoadedPlan


def measured_steps(
    plan: Plan, workload: Workload, *, steps: int, warmup_steps: int = 3
) -> tuple[Timeline, ...]:
    """Trains some steps under a plan and returns when everything happened in them.

    Args:
        plan: The plan.
        workload: The training, on the plan's device; its model is trained.
        steps: How many steps count; at least one.
        warmup_steps: Steps before them; the first one makes the optimizer's states.

    Returns:
        One timeline per step, in order.

    Raises:
        PlanMismatchError: The plan is for another model, or the step took another course than the
            plan's.
    """
    with LoadedPlan(plan).attach_traced(workload.model, workload.optimizer) as replay:
        for done in range(warmup_steps + steps):
            with replay.unwatched_step() as statistics:
                workload.step()
            fault = statistics.fallback or statistics.shortcut
            if fault is not None:
                raise PlanMismatchError(f"The step was not replayed: {fault}.")
            if statistics.on_line and done >= warmup_steps:
                raise PlanMismatchError(
                    "The step was not replayed: it makes what the plan moves, or never updates "
                    "the parameters. Ask for more warm-up steps."
                )
        return replay.timelines()[-steps:]
