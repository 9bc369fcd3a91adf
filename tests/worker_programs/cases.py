"""The trainings of workers, by name, and what one step of each does."""

from collections.abc import Callable
from functools import cache, partial

from profiles.hooks.data_parallel import data_parallel, group_of_one
from profiles.hooks.workload import Workload
from profiles.schema.profile import Profile, WorkloadSource
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.models import BUILDERS
from tests.worker_programs import own_script


def wrapped(name: str, *, view: bool = False) -> Workload:
    """One of the small models in DistributedDataParallel, gradients in its buckets or not."""
    return data_parallel(BUILDERS[name](), gradient_as_bucket_view=view)


CASES: dict[str, Callable[[], Workload]] = {
    "own_script": own_script.training,
    "unet3d": partial(wrapped, "unet3d"),
    "accumulating": partial(wrapped, "accumulating", view=True),
    "kept_gradients": partial(wrapped, "kept_gradients", view=True),
}


@cache
def recorded_alone(name: str) -> Profile:
    """Records a case as the only worker."""
    source = WorkloadSource(reference=name, settings=(), seed=0)
    with group_of_one():
        return record_at_fixed_times(CASES[name](), source=source)
