"""A course of a training loop, and how its steps are run."""

from dataclasses import dataclass, field
from enum import Enum

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
        text: What its first module is handed; empty until it is met.
        way: How its next step is run.
        why: Why it has no plan, if it is left without.
        steps: How many there were.
        attempts: How recording it goes.
        recorder: What records it, while it is recorded.
        planning: The process that plans it, while there is one.
        replay: Its plan, attached, once there is one.
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
