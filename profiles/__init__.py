"""What one training step allocates, uses and takes: how it is recorded, estimated and stored.

`record` makes a profile of a `Workload`. Reading one needs no torch, so that plans can be made on a
machine without it.
"""

from typing import TYPE_CHECKING

from profiles.schema.public_names import on_first_use

if TYPE_CHECKING:
    from profiles.hardware.links import link_named
    from profiles.hooks.workload import Workload
    from profiles.recording.record import record
    from profiles.recording.recorder import Recorder
    from profiles.schema.errors import SwapplanError
    from profiles.schema.profile import Profile, WorkloadSource
    from profiles.schema.profile_file import read_profile, write_profile

__all__ = [
    "Profile",
    "Recorder",
    "SwapplanError",
    "Workload",
    "WorkloadSource",
    "link_named",
    "read_profile",
    "record",
    "write_profile",
]

__getattr__ = on_first_use(
    __name__,
    {
        "profiles.hardware.links": ["link_named"],
        "profiles.hooks.workload": ["Workload"],
        "profiles.recording.record": ["record"],
        "profiles.recording.recorder": ["Recorder"],
        "profiles.schema.errors": ["SwapplanError"],
        "profiles.schema.profile": ["Profile", "WorkloadSource"],
        "profiles.schema.profile_file": ["read_profile", "write_profile"],
    },
)
