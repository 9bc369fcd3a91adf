"""From a plan file to a replay."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed

from planner.plan.plan import Plan
from planner.plan.plan_file import read_plan
from profiles.hooks.data_parallel import unwrapped
from profiles.hooks.named_storages import describe_model
from profiles.hooks.several_optimizers import OneOrSeveral
from profiles.hooks.workload import bare_module, bare_optimizer, foreign_optimizer_fault
from profiles.recording.device import is_at_hand
from profiles.schema.errors import FileError, PlanMismatchError
from profiles.schema.model_description import ModelDescription, first_difference
from runtime.host.host_pool import HostPool
from runtime.replay.first_step import OffPlan
from runtime.replay.lookup import unheld_name
from runtime.replay.replay import Replay
from runtime.replay.timeline import Ranges
from runtime.replay.workers import workers_of

COMPILED = "_orig_mod."
"""What torch.compile puts before every name."""


@dataclass(frozen=True)
class LoadedPlan:
    """A plan that has been read and verified, ready to be attached to a model."""

    plan: Plan

    def attach(
        self,
        model: torch.nn.Module,
        optimizer: OneOrSeveral,
        *,
        ranges: Ranges = Ranges.TORCH_PROFILER,
        traced: bool = False,
        pool: HostPool | None = None,
        off_plan: OffPlan = OffPlan.RESIDENT,
    ) -> Replay:
        """Prepares lanes, host pool and hooks for a model.

        For a model in DistributedDataParallel it is a collective: every worker of its process
        group attaches its plan, and none begins before all have the same one.

        Args:
            model: The model the plan was made for, on the plan's device.
            optimizer: Its optimizer, or a list of those that the step calls; one that a library has
                wrapped is taken out of its wrapper.
            ranges: Whose timeline shows what is done at each anchor, named by storage.
            traced: Whether the replay times its own steps; see `Replay.timelines`.
            pool: The host pool to use; one of its own if None.
            off_plan: What becomes of a step that takes another course than the plan's.

        Returns:
            The replay; close it, or use it as a context manager.

        Raises:
            PlanMismatchError: The plan was made for another model, optimizer or device.
            WorkloadError: What is given is no model or no optimizer.
        """
        bare_module(model)
        bare = bare_optimizer(optimizer)
        workers = workers_of(model)
        fault = first_fault(self.plan, model, bare)
        if fault is not None and workers is None:
            raise PlanMismatchError(fault)
        plan = self.plan if workers is None else workers.agree(self.plan, fault)
        return Replay(
            plan, model, bare, workers, ranges, traced=traced, pool=pool, off_plan=off_plan
        )

    def attach_traced(self, model: torch.nn.Module, optimizer: OneOrSeveral) -> Replay:
        """Does what `attach` does, for a replay that times its own steps."""
        return self.attach(model, optimizer, traced=True)


def load(path: Path | str) -> LoadedPlan:
    """Reads a plan file and verifies it.

    Raises:
        FileError: The file is missing, damaged, foreign or of another version.
    """
    return LoadedPlan(read_plan(path))


def load_on_first(path: Path | str) -> LoadedPlan:
    """Reads a plan file on the first worker only and sends it to the others.

    It is a collective over the default process group: every worker calls it, with the path as the
    first worker sees it.

    Raises:
        FileError: As `load`, on every worker.
    """
    message: list[str | None] = [None, None]
    if distributed.get_rank() == 0:
        try:
            message[0] = read_plan(path).model_dump_json()
        except FileError as error:
            message[1] = str(error)
    distributed.broadcast_object_list(message, src=0)
    text, fault = message
    if text is None:
        raise FileError(fault)
    return LoadedPlan(Plan.model_validate_json(text))


def device_fault(plan: Plan) -> str | None:
    """Says why a plan cannot be replayed whatever the model; None if its device can be had."""
    if is_at_hand(plan.device.kind):
        return None
    return (
        f"The plan is for device {plan.device.kind!r} ({plan.device.name}), which this machine "
        "does not have. Replay it where it has, read it with 'plan show', or record the step on "
        "'cpu', the emulated accelerator."
    )


def first_fault(plan: Plan, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> str | None:
    """Says why a plan is not for a model, as one sentence with what to do next; None if it is."""
    fault = device_fault(plan)
    if fault is not None:
        return fault
    found = {parameter.device.type for parameter in model.parameters()}
    if found != {plan.device.kind}:
        return (
            f"The plan is for device {plan.device.kind!r}, the model is on "
            f"{', '.join(sorted(found)) or 'none'}. Move the model, or record it where it is."
        )
    foreign = foreign_optimizer_fault(model, optimizer)
    if foreign is not None:
        return foreign
    found_model = describe_model(model, optimizer)
    if found_model.fingerprint() == plan.model_fingerprint:
        return _name_fault(plan, model)
    if describe_model(unwrapped(model), optimizer).fingerprint() == plan.model_fingerprint:
        return (
            "The plan is for the model without DistributedDataParallel. Record it with "
            "'plan profile --data-parallel' and solve again."
        )
    return f"The plan is for another model: {_difference(plan, found_model)}"


def _difference(plan: Plan, found: ModelDescription) -> str:
    record_again = "Record this model with 'plan profile' and solve again"
    if plan.model is None:
        return (
            "names, shapes, dtypes or the optimizer differ, or how DistributedDataParallel wraps "
            f"it; the plan is too old to say which. {record_again}; a plan recorded with "
            "--data-parallel is for 'plan run --workers' and for workers of torchrun."
        )
    difference = first_difference(plan.model, found)
    if plan.model.wrapper and not found.wrapper:
        return (
            f"{difference}. It was recorded with --data-parallel: it is for 'plan run --workers' "
            f"and for workers of torchrun. {record_again} for one alone."
        )
    if any(tensor.name.startswith(COMPILED) for tensor in found.tensors):
        return f"{difference}. Give attach() the model as it was before torch.compile."
    return f"{difference}. {record_again}."


def _name_fault(plan: Plan, model: torch.nn.Module) -> str | None:
    name = unheld_name(plan, model)
    if name is None:
        return None
    return (
        f"The plan moves {name!r}, which this model does not hold, though it is the one that the "
        "plan names: the plan was edited. Make it again with 'plan solve'."
    )
