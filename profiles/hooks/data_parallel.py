"""Training steps of data-parallel workers: a model inside DistributedDataParallel.

[Note: a step in DistributedDataParallel] What holds of such a step, seen on torch 2.13 with gloo:

- Its anchors are those of the plain step, key by key and in the same order: the wrapper adds no
  saved tensor, and a gradient's anchor comes just before the wrapper's own hook on it.
- Its ops are not. Each gradient is read once more right after its anchor (it is scaled into a
  bucket) and written once more behind the last gradient's anchor (the sum comes back); buffers are
  written at the start of forward. The buckets take the bytes of all gradients again, all the time.
  So a plan recorded from the plain step does not hold for the wrapped one, in bytes or in uses.
- All of that is the same for one worker as for many: the collectives of a group of one are
  dispatched as those of any other. So a step recorded with one worker is the step of every worker,
  but for the time that its collectives take.
- Buckets are summed by threads of the process group between two ops, seen by no op. They stay
  resident, and so does whatever else is handed to a collective (`LeftOut.EXCHANGED`). With
  `gradient_as_bucket_view` the gradients are views of the buckets and stay with them; without it
  they are storages of their own and move.
- Buckets settle in the second backward. A recording must warm up for two steps or more.
- With `static_graph` the first step is another one: it sums all gradients at its end and copies
  the model's outputs. It can need more memory than the plan has; attach after it.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from profiles.hooks.workload import Workload
from profiles.schema.errors import WorkloadError

WRAPPER_SETTINGS = (
    *("gradient_as_bucket_view", "broadcast_buffers", "bucket_bytes_cap"),
    *("find_unused_parameters", "static_graph"),
)
"""What changes the ops or the buckets of a step."""


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Returns the model itself: what DistributedDataParallel or `torch.compile` wrap, or as it is.

    Names are those of the model itself, however it is wrapped.
    """
    while (inner := _wrapped_by(model)) is not None:
        model = inner
    return model


def worker_wrapper(model: torch.nn.Module) -> DistributedDataParallel | None:
    """Returns the DistributedDataParallel around a model, be it compiled or not; None if none."""
    around: torch.nn.Module | None = model
    while around is not None and not isinstance(around, DistributedDataParallel):
        around = _wrapped_by(around)
    return around


def wrapper_words(model: torch.nn.Module) -> str:
    """Says how a model is wrapped, for its fingerprint; nothing for one that is not."""
    wrapper = worker_wrapper(model)
    if wrapper is None:
        return ""
    settings = (f"{name}={getattr(wrapper, name)}" for name in WRAPPER_SETTINGS)
    return f"DistributedDataParallel({', '.join(settings)})"


def _wrapped_by(model: torch.nn.Module) -> torch.nn.Module | None:
    if isinstance(model, DistributedDataParallel):
        return model.module
    # Importing the class of compiled modules, `torch._dynamo.OptimizedModule`, takes seconds.
    inner = model._modules.get("_orig_mod")
    return inner if type(model).__name__ == "OptimizedModule" else None


def data_parallel(workload: Workload, **settings: Any) -> Workload:
    """Returns the step of one worker: the model is inside DistributedDataParallel.

    The step keeps calling the model that it knows: that call goes through the wrapper. All workers
    start from the first one's parameters and buffers, whatever their own were. One that is wrapped
    already is returned as it is. The settings are those of DistributedDataParallel.
    """
    if worker_wrapper(workload.model) is not None:
        return workload
    wrapper = DistributedDataParallel(workload.model, **settings)
    call = _ThroughWrapper(wrapper)
    wrapper.module.forward = call

    def step() -> torch.Tensor:
        call.was_made = False
        loss = workload.step()
        if not call.was_made:
            raise WorkloadError(
                "The step never calls its model, only parts of it, so workers cannot share "
                "gradients. Return a model whose own forward the step calls."
            )
        return loss

    return replace(workload, model=wrapper, step=step)


def backend_of(device: str) -> str:
    """Returns what carries the gradients of workers on devices of a torch device type.

    Raises:
        WorkloadError: torch knows of nothing that does.
    """
    try:
        return distributed.get_default_backend_for_device(device)
    except ValueError as error:
        raise WorkloadError(
            f"torch has no collectives for workers on {device!r}, expected a backend that is "
            "registered for it by torch.distributed.Backend.register_backend."
        ) from error


@contextmanager
def group_of_one(device: str = "cpu") -> Iterator[None]:
    """Makes this process the only worker of a default process group, as recording needs it."""
    with tempfile.TemporaryDirectory() as folder:
        distributed.init_process_group(
            backend_of(device), init_method=(Path(folder) / "store").as_uri(), rank=0, world_size=1
        )
        try:
            yield
        finally:
            distributed.destroy_process_group()


class _ThroughWrapper:
    """Replaces a model's `forward`: a call of the model runs the wrapper, which calls it.

    The model's own hooks run at both calls, so a model that is one leaf module reaches its anchor
    twice.
    """

    def __init__(self, wrapper: DistributedDataParallel) -> None:
        self.was_made = False
        self._wrapper = wrapper
        self._forward = wrapper.module.forward
        self._inside = False

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        if self._inside:
            return self._forward(*inputs, **named)
        self._inside = self.was_made = True
        try:
            return self._wrapper(*inputs, **named)
        finally:
            self._inside = False
