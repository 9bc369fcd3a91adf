"""Notes the ops of a step that recipes run again, while the step runs.

[Note: capture is live] The numbers among an op's arguments may change from step to step, so a plan
names ops by where they stand and what they are called, and each step notes its own. A mode that
sees all ops anyway (`runtime.storage.accountant`, `runtime.replay.op_guard`) hands over those of
slots in which a recipe has an op; they are counted there as they were when the step was recorded.
"""

import time
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch._ops import OpOverload

from planner.plan.plan import Rebuild
from runtime.recompute.arguments import Noting, UnfitOpError
from runtime.recompute.captured_op import CapturedOp, after_op, before_op
from runtime.recompute.noted_storage import NotedStorages
from runtime.recompute.op_kind import kind_of
from runtime.recompute.recipe import LiveRecipe


class Place(NamedTuple):
    """A place in a recipe, for an op.

    Attributes:
        recipe: Number of the rebuild.
        number: Number of the op in it.
        name: The op that is planned there.
    """

    recipe: int
    number: int
    name: str


PlacesOfSlot = dict[int, list[Place]]
"""What is planned for an op of a slot, by how many ran in the slot before it."""


class Capture:
    """Notes ops for the recipes of one plan.

    Attributes:
        is_on: Whether ops that run now have to be handed to `run`.
        capture_ns: Time that noting has taken in this step.
    """

    def __init__(
        self, rebuilds: Iterable[Rebuild], device: torch.device, storages: NotedStorages
    ) -> None:
        self.is_on = False
        self.capture_ns = 0
        self._noting = Noting(storages, device)
        self._places = _places(rebuilds)
        self._recipes: Sequence[LiveRecipe] = ()
        self._here: PlacesOfSlot = {}
        self._slot = 0
        self._position = 0
        self._last = 0
        self._by_name: dict[str, list[Place]] | None = None

    def begin(self, recipes: Sequence[LiveRecipe], *, by_name: bool) -> None:
        """Begins a step, for whose recipes ops are noted.

        Args:
            recipes: The recipes.
            by_name: Whether the step may take another course than the recorded one did, so that
                ops are known by name and not by where they stand.
        """
        self.stop()
        self._recipes = recipes
        self._by_name = {} if by_name else None
        self.capture_ns = 0

    def open_slot(self, slot: int) -> None:
        """Begins a slot."""
        self._here = self._places.get(slot, {})
        self._slot, self._position = slot, 0
        if self._by_name is not None:
            self._by_name = _by_name(self._here)
        self._last = max(self._here, default=0)
        self.is_on = bool(self._here)

    def stop(self) -> None:
        """Notes nothing more in this step."""
        self.is_on = False
        self._here = {}

    def run(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """Runs an op, and notes it if a recipe has it."""
        places = self._next(func)
        # An op's own call adds nothing but a frame.
        call = func._op if func.__class__ is OpOverload else func
        if places is None:
            return call(*args, **kwargs)
        arrived_ns = time.perf_counter_ns()
        before = self._before(places, func, args, kwargs)
        begun_ns = time.perf_counter_ns()
        result = call(*args, **kwargs)
        ended_ns = time.perf_counter_ns()
        if before is not None:
            self._after(places, before, result)
        self.capture_ns += begun_ns - arrived_ns + time.perf_counter_ns() - ended_ns
        return result

    def _next(self, func: OpOverload) -> list[Place] | None:
        """Counts an op; returns what is planned for it, if anything is."""
        if not isinstance(func, OpOverload) or not kind_of(func).does_work:
            return None
        if self._by_name is not None:
            return self._by_name.get(kind_of(func).name)
        position = self._position
        self._position = position + 1
        if position >= self._last:
            self.is_on = False
        return self._here.get(position)

    def _before(
        self, places: Sequence[Place], func: OpOverload, args: Any, kwargs: Any
    ) -> CapturedOp | None:
        name = kind_of(func).name
        for place in places:
            if place.name != name:
                self._fail([place], f"{name} ran where {place.name} was planned")
        try:
            return before_op(self._noting, func, args, kwargs)
        except UnfitOpError as error:
            self._fail(places, f"{name} {error}")
            return None

    def _after(self, places: Sequence[Place], op: CapturedOp, result: Any) -> None:
        try:
            after_op(self._noting, op, result)
        except UnfitOpError as error:
            self._fail(places, f"{op.kind.name} {error}")
            return
        for place in places:
            if self._by_name is None:
                self._recipes[place.recipe].add(place.number, op)
            else:
                self._recipes[place.recipe].offer(self._slot, op)

    def _fail(self, places: Sequence[Place], fault: str) -> None:
        # Of ops that only have the name it is not known whether they are those of a recipe.
        for place in places if self._by_name is None else ():
            self._recipes[place.recipe].fail(fault)


def _by_name(places: PlacesOfSlot) -> dict[str, list[Place]]:
    """Returns the places of a slot by the op that is planned there, one for each recipe."""
    found: dict[str, dict[int, Place]] = {}
    for place in chain.from_iterable(places.values()):
        found.setdefault(place.name, {})[place.recipe] = place
    return {name: [*of_name.values()] for name, of_name in found.items()}


def _places(rebuilds: Iterable[Rebuild]) -> dict[int, PlacesOfSlot]:
    """Returns what is planned for the ops of each slot."""
    found: dict[int, PlacesOfSlot] = {}
    for recipe, rebuild in enumerate(rebuilds):
        for number, op in enumerate(rebuild.ops):
            of_slot = found.setdefault(op.slot, {})
            of_slot.setdefault(op.position, []).append(Place(recipe, number, op.name))
    return found
