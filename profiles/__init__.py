"""What one training step does: the data model, the anchors, recording, and workloads.

The data model (`profiles.profile`) needs no torch, so that the planner can read profiles on a
machine without it. Recording is `profiles.record.record`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from profiles.errors import SwapplanError
    from profiles.profile import Profile, read_profile, write_profile

__all__ = ["Profile", "SwapplanError", "read_profile", "write_profile"]

_HOMES = dict.fromkeys(__all__, "profiles.profile") | {"SwapplanError": "profiles.errors"}


def __getattr__(name: str) -> Any:
    # On first use: the data model takes longer to import than `plan --help` may take.
    if name not in _HOMES:
        raise AttributeError(f"module 'profiles' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
