"""A step while it runs: what its `with` statement holds.

[Note: steps that never end] It is no generator, which an interrupt inside `contextlib` would leave
half way. Even so an interrupt can come between the body of the `with` statement and the first
instruction of `__exit__`, and nobody leaves the step then. Its modes stay, so that whoever uses
what is away is still seen, until the next step begins or the replay is closed. The next step knows
by the statement being gone, which alone holds the step.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from runtime.replay.statistics import StepStatistics


class RunningStep(AbstractContextManager[StepStatistics]):
    """A step of a replay.

    Attributes:
        watch: What looks at its ops.
        watched: Whether anything does.
        start_ns: When it began, on the performance counter.
        is_left: Whether it is being left, or has been.
    """

    def __init__(
        self,
        watch: AbstractContextManager[object],
        *,
        watched: bool,
        enter: "Callable[[RunningStep], StepStatistics]",
        leave: "Callable[[RunningStep, BaseException | None], None]",
    ) -> None:
        self.watch: AbstractContextManager[object] = watch
        self.watched = watched
        self.start_ns = 0
        self.is_left = False
        self._enter = enter
        self._leave = leave

    def __enter__(self) -> StepStatistics:
        return self._enter(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.is_left = True
        self._leave(self, error)
