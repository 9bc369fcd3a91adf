"""Hooks that stay with the model they were registered on."""

from collections.abc import Callable
from typing import Any


class OwnHook:
    """Calls a function, but not for a copy of the model: that gets a hook that does nothing.

    Torch copies and pickles a module's hooks with the module. A copy that is trained, sent or
    saved must neither drag along what the hook belongs to nor report to it.
    """

    def __init__(self, act: Callable[..., Any]) -> None:
        self._act = act

    def __call__(self, *args: Any) -> Any:
        """Calls the function."""
        return self._act(*args)

    def __deepcopy__(self, _: object) -> Callable[..., None]:
        return nothing

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return hook_of_copy, ()


def nothing(*_: Any) -> None:
    """The hook of a copy."""


def hook_of_copy() -> Callable[..., None]:
    """Returns it, where a pickled model is loaded."""
    return nothing
