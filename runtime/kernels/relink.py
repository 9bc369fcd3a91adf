"""Makes the kernels' device functions for another target than the one their modules name.

They reach each other by name; a target gets its own by putting its functions behind those names.
"""

from collections.abc import Callable, Mapping
from types import FunctionType, MappingProxyType
from typing import Any

NOTHING: Mapping[str, Any] = MappingProxyType({})


def relinked(
    function: Any,
    finish: Callable[[Any], Any],
    done: dict[Any, Any],
    replaced: Mapping[str, Any] = NOTHING,
) -> Any:
    """A device function or kernel, and all it calls, made for another target.

    Args:
        function: The function as the kernels' modules have it.
        finish: What makes a plain function one of the target's.
        done: What was made before.
        replaced: Functions that the target has its own of, by name.
    """
    body = getattr(function, "py_func", function)
    if body not in done:
        names = dict(body.__globals__)
        for name in body.__code__.co_names:
            if name in replaced:
                names[name] = replaced[name]
            elif hasattr(names.get(name), "py_func"):
                names[name] = relinked(names[name], finish, done, replaced)
        done[body] = finish(FunctionType(body.__code__, names, body.__name__))
    return done[body]
