"""Random ops: the state their generator had, so that they draw the same numbers once more."""

from typing import Any

import torch

from profiles.hooks.dispatch import tensors_of
from profiles.hooks.mode_stack import unseen


class Draw:
    """From what an op draws, and in which state it was then.

    Attributes:
        generator: The generator.
        state: Its state before the op.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        with unseen():
            self.state = generator.get_state()


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


def generator_of(args: Any, kwargs: Any) -> torch.Generator:
    """Returns the generator that a random op draws from: it is handed one, or its device's own."""
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Generator)]
    if given:
        return given[0]
    device = _device_of(args, kwargs)
    if device.type == "cpu":
        return torch.default_generator
    of_its_kind = torch.get_device_module(device)
    number = of_its_kind.current_device() if device.index is None else device.index
    found: torch.Generator = of_its_kind.default_generators[number]
    return found


def _device_of(args: Any, kwargs: Any) -> torch.device:
    """Returns the device that an op runs on: it is told, or handed tensors of it."""
    if isinstance(kwargs.get("device"), torch.device):
        return kwargs["device"]
    tensors = tensors_of([args, kwargs])
    return tensors[0].device if tensors else torch.device("cpu")
