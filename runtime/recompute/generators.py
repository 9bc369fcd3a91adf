"""Generators that ops which are run again draw from."""

import torch

from profiles.hooks.draws import Draw
from profiles.hooks.mode_stack import unseen


class LentGenerators:
    """Generators that are in the state of an earlier op, until they are put back exactly."""

    def __init__(self) -> None:
        self._before: dict[torch.Generator, torch.Tensor] = {}

    def set(self, draw: Draw) -> None:
        """Has a generator be as it was before an op."""
        generator = draw.generator
        with unseen():
            if generator not in self._before:
                # Noted before it is touched, in one assignment.
                self._before = {**self._before, generator: generator.get_state()}
            generator.set_state(draw.state)

    def put_back(self) -> None:
        """Puts all of them back; may be called again, wherever an interrupt has ended it."""
        if not self._before:
            return
        with unseen():
            # Two objects may be one generator: its first state is put back last.
            for generator in reversed(tuple(self._before)):
                generator.set_state(self._before[generator])
        self._before = {}
