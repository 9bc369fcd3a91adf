"""The plans of several courses, attached to one training: they share a host pool."""

from collections.abc import Callable

from planner.plan.plan import Plan
from profiles.hooks.workload import Training
from profiles.recording.device import device_of
from runtime.host.host_pool import HostPool
from runtime.lanes.copy_device import copy_device
from runtime.replay.first_step import OffPlan
from runtime.replay.load import LoadedPlan
from runtime.replay.replay import Replay
from runtime.training.course import Course, Way


class CourseReplays:
    """The replays of a training's courses; one of them at a time has something in the pool."""

    def __init__(self, training: Training) -> None:
        """Has none yet."""
        self._training = training
        self._pool = HostPool(0)
        self._replays: list[Replay] = []

    def attach(self, course: Course, plan: Plan, idle: Callable[[], None]) -> None:
        """Attaches a course's plan, between two steps.

        Args:
            course: Whose steps are replayed from now on.
            plan: Its plan.
            idle: Has everything taken out of the host pool, if that has to grow.

        Raises:
            SwapplanError: The plan is not for this training, or the host has no room for the pool.
        """
        if plan.host_pool_bytes > self._pool.size_bytes:
            idle()
            device = device_of(self._training.model)
            self._pool = copy_device(device).host_pool(plan.host_pool_bytes)
            for replay in self._replays:
                replay.use_pool(self._pool)
        course.replay = LoadedPlan(plan).attach(
            self._training.model,
            self._training.optimizer,
            pool=self._pool,
            off_plan=OffPlan.ON_LINE,
        )
        self._replays.append(course.replay)
        course.way = Way.REPLAYED

    def close(self) -> None:
        """Ends all of them; it may be called again."""
        for replay in self._replays:
            replay.close()
