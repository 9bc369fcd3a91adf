"""How recording one course of a training goes where some of its steps are unlike the others.

A step that begins as those before and goes on otherwise does no harm to a recording: what it was to
show is asked of the next. After several in a row the recorded step itself was the odd one out.
"""

from enum import Enum

from profiles.schema.errors import SwapplanError, WorkloadError

MOST_UNLIKE_STEPS = 3
"""In a row; then it is the recorded step that was the odd one out, and recording begins anew."""
MOST_RECORDINGS = 3
"""A course whose steps differ is recorded anew so many times before it is left out."""


class Verdict(Enum):
    """What to do about a step that could not be recorded."""

    PASS_OVER = "ask the next one"
    BEGIN_ANEW = "begin the recording anew"
    GIVE_UP = "leave the course without a recording"


class Attempts:
    """The attempts at one course."""

    def __init__(self) -> None:
        """There were none yet."""
        self._unlike_steps = 0
        self._recordings = 0

    def succeeded(self) -> None:
        """A step was like those before."""
        self._unlike_steps = 0

    def failed(self, fault: SwapplanError) -> Verdict:
        """A step could not be recorded."""
        self._unlike_steps += 1
        if isinstance(fault, WorkloadError) and self._unlike_steps < MOST_UNLIKE_STEPS:
            return Verdict.PASS_OVER
        self._unlike_steps = 0
        self._recordings += 1
        return Verdict.GIVE_UP if self._recordings == MOST_RECORDINGS else Verdict.BEGIN_ANEW
