"""A course of a training loop, and how its steps are run."""

from dataclasses import dataclass, field
from enum import Enum

from profiles.hooks.course_finder import Beginning
from profiles.recording.attempts import Attempts
from profiles.recording.recorder import Recorder
from runtime.beyond_capacity.record import LimitedRecorder
from runtime.replay.replay import Replay
from runtime.training.planning import Planning


class Way(Enum):
    """How the steps of a course are run."""

    RECORDED = "recorded"
    PLANNED_FOR = "run while their plan is made"
    REPLAYED = "replayed"
    RESIDENT = "run resident: they fit"
    UNPLANNED = "run without a plan"


@dataclass(eq=False)
class Course:
    """A course of the loop.

    Attributes:
        key: Its name in the folder of plans.
        text: What its first module is handed, and a signature if others begin alike; empty until
            it is met.
        way: How its next step is run.
        why: Why it has no plan, if it is left without.
        steps: How many there were.
        attempts: How recording it goes.
        recorder: What records it, while it is recorded.
        planning: The process that plans it, while there is one.
        replay: Its plan, attached, once there is one.
        fitting: The signatures of its steps that have been seen to fit resident.
    """

    key: str
    text: str
    way: Way = Way.RECORDED
    why: str = ""
    steps: int = 0
    attempts: Attempts = field(default_factory=Attempts)
    recorder: Recorder | LimitedRecorder | None = None
    planning: Planning | None = None
    replay: Replay | None = None
    fitting: set[str] = field(default_factory=set)

    def surely_fits(self, beginning: Beginning) -> bool:
        """Whether a step fits resident, whichever of those that begin alike it turns out to be."""
        return bool(self.fitting) and beginning.possible() <= self.fitting
