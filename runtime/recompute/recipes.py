"""The recipes of a plan: what each step drops, and how it comes back.

[Note: what is dropped comes back] There is no copy of what is dropped. So it comes back by its
recipe and in no other way: at the anchor that the plan says, or, if the step turns out to be
another one, before anything else happens. Then what was swapped out comes back first, for recipes
read it; after that the recipes run in the order of the plan, in which what one of them reads is
there when its turn comes. If a recipe fails, for want of memory, what it fills stays dropped and it
may be tried again.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

import torch

from planner.plan.plan import Rebuild
from planner.plan.schedule import ActionKind
from profiles.schema.errors import SwapplanError
from runtime.recompute.arguments import UnfitOpError
from runtime.recompute.capture import Capture
from runtime.recompute.noted_storage import NotedStorage, NotedStorages
from runtime.recompute.recipe import LiveRecipe
from runtime.recompute.running_again import Memory, RunningAgain, most_bytes_at_once
from runtime.storage.accountant import Accountant
from runtime.storage.guarded_storages import OnForbiddenUse
from runtime.storage.residency import TrackedStorage, UnmovableError


class LostStorageError(SwapplanError):
    """A storage was dropped, and cannot be rebuilt to the bytes it had."""


class MakesRoom(Protocol):
    """What swaps on line, as far as recipes know it."""

    def make_ready(
        self,
        storages: Sequence[torch.UntypedStorage],
        made_bytes: Sequence[int],
        ops: Iterable[str],
    ) -> None:
        """Brings in storages, with room for more of some sizes, and for what ops take meanwhile."""

    def try_twice(self, do: Callable[[], None], kept: set[int]) -> None:
        """Does what there is room for, if need be with all but some storages moved out."""

    def take_in(self, storage: torch.UntypedStorage) -> None:
        """Gets to know a storage that is there."""


class Recipes:
    """The recipes of one plan, in the step under way.

    Attributes:
        capture: Notes their ops.
        rebuilt_bytes: Bytes filled again in this step.
        ops_run_again: Ops run again in this step.
        rebuild_ns: Time that took.
    """

    def __init__(
        self, rebuilds: Sequence[Rebuild], device: torch.device, accountant: Accountant
    ) -> None:
        """Prepares the recipes of a plan.

        Args:
            rebuilds: The plan's.
            device: Where the step runs.
            accountant: Counts the memory of what is run again, and has writes reported.
        """
        self._guarded = accountant.guarded
        self._storages = NotedStorages(self._guarded.rely_on, self._before_write)
        self.capture = Capture(rebuilds, device, self._storages)
        self.rebuilt_bytes = 0
        self.ops_run_again = 0
        self.rebuild_ns = 0
        self._rebuilds = tuple(rebuilds)
        self._running = RunningAgain(accountant.run_again)
        self._live: tuple[LiveRecipe, ...] = ()
        # Those that may hold something for what they fill: each op that writes asks them.
        self._holding: set[LiveRecipe] = set()
        # The number of the recipe that an action at a slot is of, by its storage.
        self._recipe_of: dict[tuple[ActionKind, int, int], int] = {}
        for number, rebuild in enumerate(self._rebuilds):
            for drop in rebuild.drops:
                self._recipe_of[ActionKind.DROP, drop.storage, drop.slot] = number
                self._recipe_of[ActionKind.REBUILD, drop.storage, rebuild.slot] = number
        self._guarded.notes = self.capture
        self._on_divergence: OnForbiddenUse = lambda reason, cdata: None

    def when_divergent(self, handler: OnForbiddenUse) -> None:
        """Sets what happens before an op writes what something dropped is rebuilt from."""
        self._on_divergence = handler

    def begin(self, *, is_first: bool = False) -> None:
        """Begins a step; nothing may be dropped.

        Args:
            is_first: Whether it may make what the recorded step has found; see
                [Note: steps of another course] in `runtime.recompute.captured_ops`.
        """
        self.end()
        self._live = tuple(map(LiveRecipe, self._rebuilds))
        self.capture.begin(self._live, by_name=is_first)
        self.rebuilt_bytes = self.ops_run_again = self.rebuild_ns = 0

    def end(self) -> None:
        """Ends a step; nothing may be dropped."""
        self.capture.stop()
        self._guarded.rely_on_nothing()
        self._live = ()
        self._holding.clear()
        self._storages.clear()

    def drop(self, storage_id: int, tracked: TrackedStorage, slot: int) -> None:
        """Gives a storage's bytes back, to be rebuilt.

        Raises:
            UnmovableError: It would not be rebuilt to the same bytes; it stays.
        """
        recipe = self._live[self._recipe_of[ActionKind.DROP, storage_id, slot]]
        noted = self._storages.find(tracked.storage)
        self._holding.add(recipe)
        self._running.unasked(lambda: recipe.hold(noted, tracked, slot))
        tracked.discard()

    def rebuild(self, storage_id: int, slot: int) -> None:
        """Fills a storage again, and what is filled with it; does nothing if it has been done.

        Raises:
            UnmovableError: The step is not as planned; nothing has changed.
            torch.OutOfMemoryError: The device has no room; likewise.
        """
        recipe = self._live[self._recipe_of[ActionKind.REBUILD, storage_id, slot]]
        wanted = recipe.missing()
        if wanted:
            fault = recipe.why_incomplete()
            if fault is not None:
                raise UnmovableError(fault)
            self._fill(recipe, wanted)
        recipe.let_go()
        self._holding.discard(recipe)

    def let_go_of_dead(self) -> None:
        """Holds nothing for what has been freed; that may free what another recipe fills."""
        holding = [recipe for recipe in self._live if recipe.holds]
        while dead := [recipe for recipe in holding if not recipe.missing()]:
            for recipe in dead:
                recipe.let_go()
                holding.remove(recipe)

    def bring_back(self) -> None:
        """Fills again whatever is dropped; what is swapped must be back. It may be called again.

        Raises:
            LostStorageError: One cannot be rebuilt; the others are.
            torch.OutOfMemoryError: The device has no room for all of them; likewise.
        """
        self._running.recover()
        self.let_go_of_dead()
        faults: list[BaseException] = []
        for recipe in self._live:
            try:
                self._bring_back(recipe)
            except BaseException as error:
                # The others come back all the same.
                faults.append(error)
        if faults:
            try:
                raise next((f for f in faults if not isinstance(f, Exception)), faults[0])
            finally:
                # Its traceback holds this frame.
                faults.clear()

    def bring_back_on_line(self, swap: MakesRoom) -> None:
        """Fills again whatever is dropped, one recipe after the other, with room made for each.

        What is swapped need not be back: `swap` has it, and brings in what each recipe reads.

        Raises:
            LostStorageError: One cannot be rebuilt.
            torch.OutOfMemoryError: The device has no room for one even so.
        """
        self._running.recover()
        self.let_go_of_dead()
        for recipe in self._live:
            wanted = recipe.missing()
            ops = recipe.ops_for(wanted.keys()) if wanted else ()
            reads = recipe.captured.read_in_place(ops) or {}
            most_bytes = most_bytes_at_once(ops, wanted.keys())
            names = [op.name for op in recipe.rebuild.ops]
            swap.make_ready(tuple(reads.values()), most_bytes, names)
            # It may be done twice: recipes write nothing but what they make.
            kept = {storage._cdata for storage in reads.values()}
            swap.try_twice(partial(self._bring_back, recipe), kept)
            for tracked in wanted.values():
                if tracked.storage is not None:
                    swap.take_in(tracked.storage)

    def _bring_back(self, recipe: LiveRecipe) -> None:
        wanted = recipe.missing()
        try:
            if wanted:
                self._fill(recipe, wanted)
        except UnmovableError as error:
            sizes = ", ".join(f"{noted.size_bytes:,}" for noted in wanted)
            raise LostStorageError(
                f"What the plan has dropped cannot be rebuilt, storages of {sizes} bytes that "
                f"{recipe.rebuild.ops[-1].name} made: {error}. Their numbers are lost: go back to "
                "the last checkpoint."
            ) from error
        recipe.let_go()

    def _fill(self, recipe: LiveRecipe, wanted: dict[NotedStorage, TrackedStorage]) -> None:
        start_ns = time.perf_counter_ns()
        ops = recipe.ops_for(wanted.keys())

        def run() -> Memory:
            fault = recipe.why_not_now(ops, self._guarded.is_forbidden)
            if fault is not None:
                raise UnfitOpError(fault)
            return self._running.run(ops, wanted.keys())

        try:
            fresh = self._running.unasked(run)
        except UnfitOpError as error:
            raise UnmovableError(str(error)) from error
        for noted, tracked in wanted.items():
            tracked.refill(fresh.pop(noted))
            self.rebuilt_bytes += noted.size_bytes
        self.ops_run_again += len(ops)
        self.rebuild_ns += time.perf_counter_ns() - start_ns

    def _before_write(self, noted: NotedStorage, user: object) -> None:
        if [recipe for recipe in self._holding if recipe.needs(noted)]:
            reason = f"{user} writes a storage from which the plan rebuilds another"
            self._on_divergence(reason, noted.cdata)
