"""A step on plain tensors with one recipe: its ops run in slot 1, what it fills is dropped at 2 and
rebuilt at 3."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from planner.plan.plan import Drop, Rebuild, RecipeOp
from profiles.hooks.dispatch import OpMode
from runtime.recompute.recipes import Recipes
from runtime.storage.accountant import Accountant
from runtime.storage.residency import TrackedStorage

CPU = torch.device("cpu")
STORAGE = 7
"""The id that the plan gives what is dropped; the next ones are those of more that is."""


class Names(OpMode):
    """Notes what ops are called, as a profile does."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def run_op(self, func, args, kwargs):  # type: ignore[no-untyped-def]
        self.names.append(str(func))
        return func(*args, **kwargs)


def recipe_of(run: Callable[[], object], *, only: str = "", drops: int = 1) -> Rebuild:
    """The rebuild that runs the ops of a function again; those whose name has a word in it."""
    with Names() as seen:
        run()
    return Rebuild(
        slot=3,
        ops=tuple(
            RecipeOp(op=position, name=name, slot=1, position=position)
            for position, name in enumerate(seen.names)
            if only in name
        ),
        drops=tuple(Drop(storage=STORAGE + n, slot=2) for n in range(drops)),
    )


class OneRecipe:
    """The step.

    Attributes:
        accountant: Sees its ops.
        recipes: Its recipes.
        divergences: What was about to write what something dropped is rebuilt from.
        misses: What was about to touch what is dropped.
    """

    def __init__(self, *rebuilds: Rebuild) -> None:
        self.accountant = Accountant(CPU, None)
        self.recipes = Recipes(rebuilds, CPU, self.accountant)
        self.divergences: list[str] = []
        self.misses: list[str] = []
        self.recipes.when_divergent(self._on_divergence)
        self.accountant.guarded.when_forbidden_use(self._on_miss)

    @contextmanager
    def step(self, *, is_first: bool = False) -> Iterator[None]:
        with self.accountant:
            self.recipes.begin(is_first=is_first)
            self.recipes.capture.open_slot(1)
            yield
        self.recipes.bring_back()
        self.recipes.end()

    def drop(self, *tensors: torch.Tensor) -> list[TrackedStorage]:
        self.recipes.capture.open_slot(2)
        found = []
        for number, tensor in enumerate(tensors):
            tracked = TrackedStorage(tensor.untyped_storage(), self.accountant)
            self.recipes.drop(STORAGE + number, tracked, 2)
            found.append(tracked)
        return found

    def rebuild(self, number: int = 0) -> None:
        self.recipes.rebuild(STORAGE + number, 3)

    def _on_divergence(self, reason: str, cdata: int) -> None:
        self.divergences.append(reason)
        self.recipes.bring_back()

    def _on_miss(self, reason: str, cdata: int) -> None:
        self.misses.append(reason)
        self.recipes.bring_back()
