"""Replays a swap plan around an ordinary PyTorch training step.

replay = runtime.load("unet.plan.json").attach(model, optimizer)
for batch in batches:
    with replay.step():
        ...  # zero_grad, forward, backward, optimizer.step(), as before
replay.close()

Where a step runs a kernel that torch does not see, `runtime.touch(weight, rows)` right before it
says what it uses.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from profiles.hooks.addresses import touch
    from runtime.replay.load import LoadedPlan, load, load_on_first
    from runtime.replay.replay import Replay
    from runtime.replay.statistics import FallbackWarning, StepStatistics
    from runtime.replay.timeline import Ranges
    from runtime.storage.accountant import EmulatedOutOfMemoryError

__all__ = [
    "EmulatedOutOfMemoryError",
    "FallbackWarning",
    "LoadedPlan",
    "Ranges",
    "Replay",
    "StepStatistics",
    "load",
    "load_on_first",
    "touch",
]

_HOMES = {
    "EmulatedOutOfMemoryError": "runtime.storage.accountant",
    "FallbackWarning": "runtime.replay.statistics",
    "LoadedPlan": "runtime.replay.load",
    "Ranges": "runtime.replay.timeline",
    "Replay": "runtime.replay.replay",
    "StepStatistics": "runtime.replay.statistics",
    "load": "runtime.replay.load",
    "load_on_first": "runtime.replay.load",
    "touch": "profiles.hooks.addresses",
}


def __getattr__(name: str) -> Any:
    # On first use: the commands are in this package too, and `plan --help` must not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'runtime' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
