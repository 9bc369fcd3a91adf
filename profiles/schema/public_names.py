"""Public names of a floor, each imported when it is first asked for.

Importing a floor must take no time: the command line is in one, and it waits neither for torch nor
for the data model.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def on_first_use(package: str, names_of: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Returns the `__getattr__` of a package from the names that it has of each module."""
    homes = {name: module for module, names in names_of.items() for name in names}

    def public_name(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(homes[name]), name)

    return public_name
