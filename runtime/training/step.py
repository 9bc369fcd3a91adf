"""One step of a training loop: a `with` statement, inside which what runs it is entered later."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from profiles.recording.passes import Held
from runtime.training.course import Course, Way


class UnfinishedStep(Exception):
    """A step was left by an exception that only its framework has seen."""


class LoopStep(AbstractContextManager[None]):
    """One step of the loop; `running` is what it runs in, from its first module's call on.

    `is_free` says that nothing keeps it within a budget.
    """

    def __init__(
        self,
        enter: Callable[["LoopStep"], None],
        leave: Callable[["LoopStep", BaseException | None], None],
        held: Held,
    ) -> None:
        self.held = held
        self.course: Course | None = None
        self.way = Way.UNPLANNED
        self.running: AbstractContextManager[object] | None = None
        self.is_free = False
        self._enter, self._leave = enter, leave

    def __enter__(self) -> None:
        self._enter(self)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._leave(self, error)
