"""Random ops: the state their generator had, so that they draw the same numbers once more."""

from typing import Any

import torch
from torch._ops import OpOverload

from profiles.hooks.dispatch import is_random, tensors_of
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

    def take_back(self) -> None:
        """Has the generator be as it was: the op has failed, whatever it has drawn by then."""
        with unseen():
            self.generator.set_state(self.state)


def draw_of(op: OpOverload, args: Any, kwargs: Any) -> Draw | None:
    """Returns the draw of an op that is about to run; None if it draws nothing."""
    return Draw(generator_of(args, kwargs)) if is_random(op) else None


def generator_of(args: Any, kwargs: Any) -> torch.Generator:
    """Returns the generator that a random op draws from: it is handed one, or its device's own."""
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Generator)]
    if given:
        return given[0]
    device = _device_of(args, kwargs)
    if device.type in ("cpu", "meta"):
        # On meta nothing is drawn, from none.
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
