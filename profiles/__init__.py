"""What one training step allocates, uses and takes: how it is recorded, estimated and stored.

`record` makes a profile of a `Workload`. Reading one needs no torch, so that plans can be made on a
machine without it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from profiles.hardware.links import link_named
    from profiles.hooks.workload import Workload
    from profiles.recording.record import record
    from profiles.schema.errors import SwapplanError
    from profiles.schema.profile import Profile, WorkloadSource
    from profiles.schema.profile_file import read_profile, write_profile

__all__ = [
    "Profile",
    "SwapplanError",
    "Workload",
    "WorkloadSource",
    "link_named",
    "read_profile",
    "record",
    "write_profile",
]

_HOMES = {
    "Profile": "profiles.schema.profile",
    "SwapplanError": "profiles.schema.errors",
    "Workload": "profiles.hooks.workload",
    "WorkloadSource": "profiles.schema.profile",
    "link_named": "profiles.hardware.links",
    "read_profile": "profiles.schema.profile_file",
    "record": "profiles.recording.record",
    "write_profile": "profiles.schema.profile_file",
}


def __getattr__(name: str) -> Any:
    # On first use: the data model takes longer to import than `plan --help` may take.
    if name not in _HOMES:
        raise AttributeError(f"module 'profiles' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
