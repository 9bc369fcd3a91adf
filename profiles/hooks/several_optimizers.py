"""Several optimizers of one training step, followed as one.

Networks that train each other have one each, two kinds of optimizer share a model's parameters, or
every parameter has its own, which updates it as soon as backward has made its gradient. What one
does is said of all: its `step` is an `optimizer:pre` and an `optimizer:post`, counted as other
anchors are, and its states are the step's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch

from profiles.schema.errors import WorkloadError

OneOrSeveral = (
    torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | Mapping[Any, torch.optim.Optimizer]
)
"""What a user hands in: an optimizer, several, or several by any name, as by parameter."""


class SeveralOptimizers(torch.optim.Optimizer):
    """What recording and replay ask of an optimizer, answered by several.

    It trains nothing itself: the step calls each of them, where and whenever it does.

    Attributes:
        optimizers: The optimizers, none of them wrapped, in the order given.
    """

    def __init__(self, optimizers: tuple[torch.optim.Optimizer, ...]) -> None:
        """Follows optimizers.

        Raises:
            WorkloadError: Two of them train one parameter.
        """
        # The base class would make states, groups and hooks of its own.
        self.optimizers = optimizers
        trained = [id(p) for group in self.param_groups for p in group["params"]]
        if len(trained) != len(set(trained)):
            raise WorkloadError(
                "Two of the optimizers train one parameter, and a plan tells their states apart by "
                "parameter. Give each parameter to one of them."
            )

    @property
    def state(self) -> Mapping[torch.Tensor, Any]:  # type: ignore[override]
        """The states of all, by parameter."""
        return _States(self.optimizers)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The parameter groups of all."""
        return [group for one in self.optimizers for group in one.param_groups]

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Does not exist: the step calls its own optimizers.

        Raises:
            TypeError: Always.
        """
        raise TypeError("Several optimizers have no step of their own: call step() of each.")

    def register_step_pre_hook(self, hook: Callable[..., Any]) -> "_Handles":  # type: ignore[override]
        """Has each call a hook before its step; the hook is handed that one."""
        return _Handles(one.register_step_pre_hook(hook) for one in self.optimizers)

    def register_step_post_hook(self, hook: Callable[..., Any]) -> "_Handles":  # type: ignore[override]
        """Has each call a hook after its step; the hook is handed that one."""
        return _Handles(one.register_step_post_hook(hook) for one in self.optimizers)

    def register_state_dict_pre_hook(  # type: ignore[override]
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> "_Handles":
        """Has each call a hook before its states are read."""
        return _Handles(one.register_state_dict_pre_hook(hook, prepend) for one in self.optimizers)

    def register_load_state_dict_pre_hook(  # type: ignore[override]
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> "_Handles":
        """Has each call a hook before its states are loaded."""
        return _Handles(
            one.register_load_state_dict_pre_hook(hook, prepend) for one in self.optimizers
        )


class _Handles:
    """Removes a hook from each optimizer."""

    def __init__(self, handles: Iterator[Any]) -> None:
        self._handles = tuple(handles)

    def remove(self) -> None:
        """Removes it."""
        for handle in self._handles:
            handle.remove()


class _States(Mapping[torch.Tensor, Any]):
    """The states of several optimizers as they are now; those keep theirs in a `defaultdict`."""

    def __init__(self, optimizers: tuple[torch.optim.Optimizer, ...]) -> None:
        self._states = [one.state for one in optimizers]

    def __getitem__(self, parameter: torch.Tensor) -> Any:
        for states in self._states:
            if parameter in states:
                return states[parameter]
        raise KeyError(parameter)

    def __iter__(self) -> Iterator[torch.Tensor]:
        for states in self._states:
            yield from states

    def __len__(self) -> int:
        return sum(map(len, self._states))


def optimizer_words(optimizer: torch.optim.Optimizer) -> str:
    """Returns an optimizer's class, as a plan names it: `AdamW`, or `AdamW x 148, SGD` of many."""
    classes = groupby(type(one).__name__ for one in each_optimizer(optimizer))
    counts = [(name, len(list(alike))) for name, alike in classes]
    return ", ".join(name if n == 1 else f"{name} x {n}" for name, n in counts)


def each_optimizer(optimizer: torch.optim.Optimizer) -> tuple[torch.optim.Optimizer, ...]:
    """Returns the several that one stands for, or itself."""
    return optimizer.optimizers if isinstance(optimizer, SeveralOptimizers) else (optimizer,)
