"""`runtime.within`: a training loop within a budget of device memory, in three lines."""

from pathlib import Path

import torch

from profiles.hardware.links import EMULATED, link_named
from profiles.hooks.checkpointing import Checkpointing
from profiles.hooks.course_key import key_of
from profiles.hooks.named_storages import describe_model
from profiles.hooks.several_optimizers import OneOrSeveral
from profiles.hooks.workload import Training, bare_optimizer
from profiles.recording.device import describe_device, device_of
from profiles.schema.files import VERSION
from profiles.schema.profile import CPU, Link
from runtime.lanes.measure import link_from, measure_link
from runtime.training.budget import Budget
from runtime.training.course_plans import CoursePlans
from runtime.training.plan_folder import PlanFolder
from runtime.training.planned_training import PlannedTraining


def within(
    model: torch.nn.Module,
    optimizer: OneOrSeveral,
    *,
    budget: str | int,
    plans: Path | str,
    link: str | None = None,
    time_limit_s: float = 60.0,
    most_plans: int = 4,
    checkpointing: bool = True,
) -> PlannedTraining:
    """Keeps a training loop within a budget of device memory, from its first step on.

        with runtime.within(model, optimizer, budget="14GiB", plans="plans") as memory:
            for batch in batches:
                with memory.step():
                    ...  # as before

    The first steps of each course of the loop are recorded, then another process plans it while
    training goes on, and from then on the plan is replayed. Until it is there, steps that do not
    fit are swapped on line, which is slow. What fits is left alone. No number changes.

    Args:
        model: The model, on its device.
        optimizer: Its optimizer, or a list of those that the step calls; one that a library has
            wrapped is taken out of its wrapper.
        budget: Device bytes: a number, `"14GiB"`, `"fits"` for what the device has free, or a
            share of what a step needs without a plan, `"60%"`; until there is a plan for a share,
            steps run resident.
        plans: The folder to keep plans in: the next run begins with them.
        link: The link to the host, by its name in `plan links`; if None, it is measured, and on the
            emulated device it is the emulated one.
        time_limit_s: How long the planner may look for a better plan.
        most_plans: Courses that may have a plan; others are swapped on line.
        checkpointing: Whether activation checkpointing that the model has is kept, and planned
            around. If not, it is switched off in steps that are recorded or replayed, for the plan
            to choose what is made again; steps without a plan keep it. See
            [Note: the same numbers] in `profiles.hooks.checkpointing`.

    Raises:
        SwapplanError: The model, the optimizer, the budget, the link or the folder is not as said,
            or checkpointing cannot be switched off.
    """
    switch = Checkpointing(kept=checkpointing)
    training = Training(model=model, optimizer=bare_optimizer(optimizer))
    asked = Budget.of(budget, training)
    kept = CoursePlans(
        training,
        asked,
        PlanFolder(Path(plans), key_of(*_facts(training, asked, link, checkpointing))),
        link_for(device_of(model), link),
        time_limit_s=time_limit_s,
        most_plans=most_plans,
    )
    return PlannedTraining(training, asked, kept, switch)


def _facts(
    training: Training, budget: Budget, link: str | None, checkpointing: bool
) -> tuple[str, ...]:
    """What the plans of a folder are for."""
    return (
        describe_model(training.model, training.optimizer).fingerprint(),
        describe_device(device_of(training.model)).name,
        *(VERSION, torch.__version__, budget.text, link or ""),
        # Nothing where it is kept, so that plans of older runs are found.
        *(() if checkpointing else ("without checkpointing",)),
    )


def link_for(device: torch.device, name: str | None) -> Link:
    """Returns a link of the table, or the device's own: measured, unless it is emulated.

    Raises:
        QuantityError: There is no link of that name.
    """
    if name is not None:
        return link_named(name)
    if device.type == CPU:
        return EMULATED
    return link_from(measure_link(device))
