"""POFO's dynamic program: which stages of a chain are kept, offloaded or run again.

Beaumont, Eyraud-Dubois and Shilova, "Efficient Combination of Rematerialization and Offloading for
Training DNNs", NeurIPS 2021. Forward goes through the chain once. A stage either saves what its
backward needs, or begins a stretch of which only what enters it is kept; either way what was there
at its begin stays on the device or is offloaded. A state is the next stage with

- the bytes that stay on the device for the stages before it,
- the bytes still on their way to the host, which leave during forward,
- the bytes still to be fetched for the stages before it, during backward,
- whether the stage before it saved what it needs.

Compute is idle for as long as bytes on their way are in the way, and at the turn for all that are
left. Backward of a stretch is rotor's (`planner.heuristics.recomputing.rotor`), beside all that is
still to be fetched.

States are made from the first stage on, with their exact bytes; of those whose bytes lie in one
cell of a grid the fastest is kept. On few stages nothing is lost by that.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from planner.heuristics.recomputing.rotor import Floats, Ints, Rotor

CELLS = 16
"""Cells of the grid along each of the three kinds of bytes."""


class Stretch(NamedTuple):
    """Stages of one decision.

    Attributes:
        first: The first one.
        last: The last one.
        runs_again: Whether they keep nothing but what enters the first one.
        offloads: Whether what was there at the begin goes to the host: what enters the first one
            and what the stage before it saved.
        memory_bytes: What its backward may take if it runs again.
    """

    first: int
    last: int
    runs_again: bool
    offloads: bool
    memory_bytes: float


class Solution(NamedTuple):
    """Stretches in order, and the time of forward and backward, recompute and idle time in it."""

    stretches: tuple[Stretch, ...]
    us: float


class _Place(NamedTuple):
    """The next stage, and whether the one before it saved what it needs."""

    stage: int
    saved: bool


class _Step(NamedTuple):
    """One decision, taken at a place."""

    place: _Place
    last: int
    runs_again: bool
    offloads: bool


class _States(NamedTuple):
    """States at a place, by column; the last two say where each is from, and by which step."""

    kept_bytes: Floats
    leaving_bytes: Floats
    coming_bytes: Floats
    us: Floats
    origins: Ints
    steps: Ints

    @classmethod
    def of(cls, columns: Iterable[Any]) -> "_States":
        return cls(*columns)

    @classmethod
    def together(cls, found: Iterable["_States"]) -> "_States":
        return cls.of(np.concatenate(columns) for columns in zip(*found, strict=True))

    def only(self, which: Ints) -> "_States":
        return self.of(column[which] for column in self)


@dataclass
class Chain:
    """A chain, a link and a budget; it is solved once.

    Attributes:
        rotor: What running stretches again takes.
        budget_bytes: Device bytes.
        d2h_bytes_per_us: Rate of the link to the host.
        h2d_bytes_per_us: And back.
    """

    rotor: Rotor
    budget_bytes: float
    d2h_bytes_per_us: float
    h2d_bytes_per_us: float
    _states: dict[_Place, _States] = field(default_factory=dict)
    _steps: list[_Step] = field(default_factory=list)

    def solution(self, stop: Callable[[], bool]) -> Solution | None:
        """Returns the fastest solution; None if there is none, or no time to find it."""
        count = len(self.rotor.stages)
        begin, none = np.zeros(1), np.full(1, -1)
        reached = {_Place(0, False): [_States(begin, begin, begin, begin, none, none)]}
        for place in (_Place(stage, saved) for stage in range(count) for saved in (False, True)):
            if stop():
                return None
            if found := reached.pop(place, None):
                self._states[place] = self._fastest(found)
                for there, states in self._from(place):
                    reached.setdefault(there, []).append(states)
        ends = [states for found in reached.values() for states in found]
        return self._best(ends)

    def _fastest(self, found: list[_States]) -> _States:
        """Of the states in one cell of the grid, the fastest."""
        states = _States.together(found)
        states = states.only(np.argsort(states.us, kind="stable"))
        cells = np.floor(np.stack(states[:3]) * (CELLS / self.budget_bytes))
        return states.only(np.unique(cells, axis=1, return_index=True)[1])

    def _from(self, place: _Place) -> Iterator[tuple[_Place, _States]]:
        states, stage = self._states[place], self.rotor.stages[place.stage]
        before_bytes = self._saved_before(place)
        there = _Place(place.stage + 1, True)
        found = self._saving(states, place, before_bytes)
        yield from self._both_ways(there, found, stage.saved_input_bytes + before_bytes, place)
        for there, found in self._running_again(states, place, before_bytes):
            yield from self._both_ways(there, found, stage.input_bytes + before_bytes, place)

    def _saved_before(self, place: _Place) -> int:
        return self.rotor.stages[place.stage - 1].saved_bytes if place.saved else 0

    def _saving(self, states: _States, place: _Place, before_bytes: int) -> _States:
        """The states after a stage that saves what its backward needs."""
        stage = self.rotor.stages[place.stage]
        room = self.budget_bytes - states.kept_bytes - before_bytes
        out = np.maximum(0.0, states.leaving_bytes + stage.forward_bytes - room)
        back = np.maximum(0.0, states.coming_bytes + stage.backward_bytes - room)
        idle_us = out / self.d2h_bytes_per_us + back / self.h2d_bytes_per_us
        able = (out <= states.leaving_bytes) & (back <= states.coming_bytes)
        moved = out + stage.forward_us * self.d2h_bytes_per_us
        fetched = back + stage.backward_us * self.h2d_bytes_per_us
        return states._replace(
            leaving_bytes=states.leaving_bytes - moved,
            coming_bytes=states.coming_bytes - fetched,
            us=np.where(able, states.us + stage.forward_us + stage.backward_us + idle_us, math.inf),
        )

    def _running_again(
        self, states: _States, place: _Place, before_bytes: int
    ) -> Iterator[tuple[_Place, _States]]:
        """The states after each stretch that begins at a place and keeps what enters it alone."""
        stages, first = self.rotor.stages, place.stage
        forward_us, most_bytes = 0.0, 0.0
        room = self.budget_bytes - states.kept_bytes - before_bytes
        for last in range(first, len(stages)):
            entered = stages[first].input_bytes if last > first else 0
            needed = stages[last].forward_bytes + entered - forward_us * self.d2h_bytes_per_us
            most_bytes = max(most_bytes, needed)
            forward_us += stages[last].forward_us
            out = np.maximum(0.0, states.leaving_bytes + most_bytes - room)
            again_us = self.rotor.us(first, last, room - states.coming_bytes)
            us = states.us + forward_us + out / self.d2h_bytes_per_us + again_us
            us = np.where(out <= states.leaving_bytes, us, math.inf)
            if not np.isfinite(us).any():
                # It takes no less memory to go further.
                return
            moved = out + forward_us * self.d2h_bytes_per_us
            yield (
                _Place(last + 1, False),
                states._replace(
                    leaving_bytes=states.leaving_bytes - moved,
                    coming_bytes=states.coming_bytes - again_us * self.h2d_bytes_per_us,
                    us=us,
                ),
            )

    def _both_ways(
        self, there: _Place, found: _States, size_bytes: int, place: _Place
    ) -> Iterator[tuple[_Place, _States]]:
        """What was there at the begin stays, or is offloaded meanwhile and fetched just before."""
        which = np.flatnonzero(np.isfinite(found.us))
        if not len(which):
            return
        found = found.only(which)
        for offloads in (False, True) if size_bytes else (False,):
            step = _Step(place, there.stage - 1, not there.saved, offloads)
            self._steps.append(step)
            goes = size_bytes if offloads else 0
            yield (
                there,
                _States(
                    kept_bytes=found.kept_bytes + (size_bytes - goes),
                    leaving_bytes=np.maximum(0.0, found.leaving_bytes + goes),
                    coming_bytes=np.maximum(0.0, found.coming_bytes) + goes,
                    us=found.us,
                    origins=which,
                    steps=np.full(len(which), len(self._steps) - 1),
                ),
            )

    def _best(self, ends: list[_States]) -> Solution | None:
        """Follows the fastest end back."""
        if not ends:
            return None
        states = _States.together(ends)
        out_us = states.leaving_bytes / self.d2h_bytes_per_us
        total_us = states.us + out_us + states.coming_bytes / self.h2d_bytes_per_us
        best = int(np.argmin(total_us))
        origin, number = int(states.origins[best]), int(states.steps[best])
        stretches: list[Stretch] = []
        while number >= 0:
            step = self._steps[number]
            known = self._states[step.place]
            taken = known.kept_bytes[origin] + known.coming_bytes[origin]
            memory_bytes = float(self.budget_bytes - taken - self._saved_before(step.place))
            stretches.append(
                Stretch(step.place.stage, step.last, step.runs_again, step.offloads, memory_bytes)
            )
            origin, number = int(known.origins[origin]), int(known.steps[origin])
        return Solution(tuple(reversed(stretches)), float(total_us[best]))
