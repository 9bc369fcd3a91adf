"""Replays a swap plan around an ordinary PyTorch training step.

replay = runtime.load("unet.plan.json").attach(model, optimizer)
for batch in batches:
    with replay.step():
        ...  # zero_grad, forward, backward, optimizer.step(), as before
replay.close()

Where a step runs a kernel that torch does not see, `runtime.touch(weight, rows)` right before it
says what it uses.
"""

from typing import TYPE_CHECKING

from profiles.schema.public_names import on_first_use

if TYPE_CHECKING:
    from profiles.hooks.addresses import touch
    from runtime.replay.first_step import OffPlan
    from runtime.replay.load import LoadedPlan, load, load_on_first
    from runtime.replay.replay import Replay
    from runtime.replay.statistics import FallbackWarning, StepStatistics
    from runtime.replay.timeline import Ranges
    from runtime.storage.accountant import EmulatedOutOfMemoryError
    from runtime.training.lightning_callback import LightningCallback
    from runtime.training.load_courses import LoadedCourses, load_courses
    from runtime.training.planned_training import PlannedTraining
    from runtime.training.transformers_callback import TransformersCallback
    from runtime.training.within import within

__all__ = [
    "EmulatedOutOfMemoryError",
    "FallbackWarning",
    "LightningCallback",
    "LoadedCourses",
    "LoadedPlan",
    "OffPlan",
    "PlannedTraining",
    "Ranges",
    "Replay",
    "StepStatistics",
    "TransformersCallback",
    "load",
    "load_courses",
    "load_on_first",
    "touch",
    "within",
]

__getattr__ = on_first_use(
    __name__,
    {
        "profiles.hooks.addresses": ["touch"],
        "runtime.replay.first_step": ["OffPlan"],
        "runtime.replay.load": ["LoadedPlan", "load", "load_on_first"],
        "runtime.replay.replay": ["Replay"],
        "runtime.replay.statistics": ["FallbackWarning", "StepStatistics"],
        "runtime.replay.timeline": ["Ranges"],
        "runtime.training.load_courses": ["LoadedCourses", "load_courses"],
        "runtime.training.lightning_callback": ["LightningCallback"],
        "runtime.training.transformers_callback": ["TransformersCallback"],
        "runtime.training.planned_training": ["PlannedTraining"],
        "runtime.training.within": ["within"],
        "runtime.storage.accountant": ["EmulatedOutOfMemoryError"],
    },
)
