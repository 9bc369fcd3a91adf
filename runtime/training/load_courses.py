"""From a file of plans to a training in which each course is replayed."""

from dataclasses import dataclass
from pathlib import Path

import torch

from planner.plan.plan_set import PlanSet, read_plan_set
from profiles.hooks.checkpointing import Checkpointing
from profiles.hooks.several_optimizers import OneOrSeveral
from profiles.hooks.workload import Training, bare_optimizer
from profiles.schema.errors import WorkloadError
from profiles.schema.units import size_text
from runtime.training.agreement import agreement_of
from runtime.training.budget import Budget
from runtime.training.fixed_plans import FixedPlans
from runtime.training.planned_training import PlannedTraining


@dataclass(frozen=True)
class LoadedCourses:
    """Plans that have been read and verified, one for each course of a training."""

    plans: PlanSet

    def attach(self, model: torch.nn.Module, optimizer: OneOrSeveral) -> PlannedTraining:
        """Attaches all of them to a model.

        A step takes the plan of the course that its first module's call shows; one that takes none
        of them is swapped on line, within the largest of the plans' budgets.

        Args:
            model: The model the plans were made for, on the plans' device.
            optimizer: Its optimizer, or a list of those that the step calls.

        Returns:
            What `runtime.within` returns: close it, or use it as a context manager.

        Raises:
            PlanMismatchError: A plan was made for another model, optimizer or device.
            WorkloadError: What is given is no model or no optimizer, or is one of several workers.
        """
        training = Training(model=model, optimizer=bare_optimizer(optimizer))
        if agreement_of(training) is not None:
            raise WorkloadError(
                "Plans of several courses are for one process: data-parallel workers would take "
                "different ones. Attach one plan for all, or use runtime.within."
            )
        limit_bytes = self.plans.budget_bytes
        budget = Budget(
            text=size_text(limit_bytes), to_plan=str(limit_bytes), limit_bytes=limit_bytes
        )
        without = all(entry.plan.without_checkpointing for entry in self.plans.courses)
        switch = Checkpointing(kept=not without)
        return PlannedTraining(training, budget, FixedPlans(training, self.plans), switch)


def load_courses(path: Path | str) -> LoadedCourses:
    """Reads a file of plans and verifies each.

    Raises:
        FileError: The file is missing, damaged, foreign or of another version.
    """
    return LoadedCourses(read_plan_set(path))
