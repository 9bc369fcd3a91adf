"""Replays a swap plan around an ordinary PyTorch training step.

replay = runtime.load("unet.plan.json").attach(model, optimizer)
for batch in batches:
    with replay.step():
        ...  # zero_grad, forward, backward, optimizer.step(), as before
replay.close()

Where a step runs a kernel that torch does not see, `runtime.touch(weight, rows)` right before it
says what it uses.
"""

from profiles.addresses import touch
from runtime.accountant import EmulatedOutOfMemoryError
from runtime.load import LoadedPlan, load, load_on_first
from runtime.ranges import Ranges
from runtime.replay import FallbackWarning, Replay
from runtime.statistics import StepStatistics

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
