"""What backward of a stretch of a chain takes if only what enters the stretch was kept.

Rotor (Beaumont et al., "Optimal checkpointing for heterogeneous chains", 2019, arXiv:1911.13214):
stage by stage, running a stretch again either saves what a stage needs for its backward, or keeps
what enters a later stage, runs to the end from there, and comes back to the stages in between with
another pass from the beginning. The table has the least time for every stretch and every memory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MEMORY_STEPS = 500
"""Memory counts in so many parts of the most there may be, as rotor does."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a chain.

    Attributes:
        forward_us: Time of its forward.
        backward_us: Time of its backward.
        input_bytes: What enters it, which running it again needs.
        saved_input_bytes: So much of that its backward needs as well.
        saved_bytes: What it makes and its backward needs.
        forward_bytes: Most bytes held during its forward, without what stages before it keep.
        backward_bytes: Most bytes held during its backward, likewise.
    """

    forward_us: float
    backward_us: float
    input_bytes: int
    saved_input_bytes: int
    saved_bytes: int
    forward_bytes: int
    backward_bytes: int


@dataclass
class Pass:
    """One time that some stages are run again in a row.

    Attributes:
        saves: Stages of which what they need for their backward is saved.
        keeps: Stages of which what enters them is kept until another pass begins there.
    """

    saves: set[int] = field(default_factory=set)
    keeps: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Rotor:
    """The table of a chain.

    Attributes:
        stages: The chain.
        most_bytes: The most memory that is asked for.
    """

    stages: Sequence[Stage]
    most_bytes: int

    def us(self, first: int, last: int, memory_bytes: Floats) -> Floats:
        """Returns the least time of a stretch by the memory there is; infinite if too little."""
        steps = np.floor(memory_bytes / self._step_bytes).astype(int)
        times_us: Floats = self._table[0][first, last][np.clip(steps, 0, MEMORY_STEPS)]
        return times_us

    def passes(self, first: int, last: int, memory_bytes: float) -> list[Pass]:
        """Returns the passes of the fastest way to run a stretch again, in their order."""
        found = [Pass()]
        pending = [(first, last, math.floor(memory_bytes / self._step_bytes), found[0])]
        while pending:
            first, last, steps, one = pending.pop()
            cut = int(self._table[1][first, last, min(steps, MEMORY_STEPS)])
            if cut == first:
                one.saves.add(first)
                if first < last:
                    one.keeps.add(first + 1)
                    held = self._steps(self._saved_bytes(first))
                    pending.append((first + 1, last, steps - held, one))
            else:
                one.keeps.add(cut)
                found.append(Pass())
                held = self._steps(self.stages[first].input_bytes)
                pending.append((first, cut - 1, steps, found[-1]))
                pending.append((cut, last, steps - held, one))
        return found

    @property
    def _step_bytes(self) -> float:
        return self.most_bytes / MEMORY_STEPS

    def _steps(self, size_bytes: float) -> int:
        return min(math.ceil(size_bytes / self._step_bytes), MEMORY_STEPS + 1)

    def _saved_bytes(self, stage: int) -> int:
        return self.stages[stage].saved_input_bytes + self.stages[stage].saved_bytes

    @cached_property
    def _table(self) -> tuple[Floats, Ints]:
        """Per stretch and steps of memory: the least time, and the stage at which it is cut.

        Cut at its first stage it saves that one.
        """
        count = len(self.stages)
        times_us = np.full((count, count, MEMORY_STEPS + 1), math.inf)
        cuts = np.zeros((count, count, MEMORY_STEPS + 1), dtype=np.int64)
        starts_us = np.cumsum([0.0, *(stage.forward_us for stage in self.stages)])
        for first in reversed(range(count)):
            stage = self.stages[first]
            both_us = stage.forward_us + stage.backward_us
            times_us[first, first, self._steps(stage.backward_bytes) :] = both_us
            cuts[first, first] = first
            kept, saved = self._steps(stage.input_bytes), self._steps(self._saved_bytes(first))
            for last in range(first + 1, count):
                # Row 0 saves the first stage; row n cuts n stages later.
                rows = np.full((last - first + 1, MEMORY_STEPS + 1), math.inf)
                rows[0, saved:] = times_us[first + 1, last, : MEMORY_STEPS + 1 - saved]
                rows[0] += times_us[first, first]
                later = slice(first + 1, last + 1)
                rows[1:, kept:] = times_us[later, last, : MEMORY_STEPS + 1 - kept]
                rows[1:] += times_us[first, first:last]
                rows[1:] += (starts_us[later] - starts_us[first])[:, None]
                times_us[first, last] = rows.min(axis=0)
                cuts[first, last] = first + rows.argmin(axis=0)
        return times_us, cuts
