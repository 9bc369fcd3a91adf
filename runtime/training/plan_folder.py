"""A folder of plans, and of the profiles they were made from, by course.

[Note: who writes] Files are written whole or not at all, under a name that says for which model,
budget, device and course they are. So two processes may use one folder: the last one's plan stays,
and either is a plan for that course. What cannot be read is passed over with a word and made again.
"""

import logging
from contextlib import suppress
from pathlib import Path

from planner.plan.plan import Plan
from planner.plan.plan_file import read_plan
from profiles.schema.errors import FileError, SwapplanError
from profiles.schema.profile import Profile
from profiles.schema.profile_file import read_profile, write_profile

LOG = logging.getLogger("swapplan")

PLAN, PROFILE = ".plan.json", ".profile.json.gz"


class PlanFolder:
    """The files of one training; `training` is the first part of their names."""

    def __init__(self, path: Path, training: str) -> None:
        """Makes the folder if it is not there.

        Raises:
            FileError: It cannot be made or written to.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(
                f"The folder of plans {str(path)!r} cannot be made: {error.strerror or error}. "
                "Name one that can be written to with plans=."
            ) from error
        self._path = path
        self._training = training

    def plan_path(self, course: str) -> Path:
        """Returns where a course's plan is, or shall be."""
        return self._path / f"{self._training}-{course}{PLAN}"

    def profile_path(self, course: str) -> Path:
        """Returns where a course's profile is, or shall be."""
        return self._path / f"{self._training}-{course}{PROFILE}"

    def planned(self) -> tuple[str, ...]:
        """Returns the courses that have a plan, the latest first."""
        found = sorted(self._path.glob(f"{self._training}-*{PLAN}"), key=_age, reverse=True)
        first, last = len(self._training) + 1, len(PLAN)
        return tuple(path.name[first:-last] for path in found)

    def plan(self, course: str) -> Plan | None:
        """Reads a course's plan; None if there is none, or none that can be read."""
        path = self.plan_path(course)
        try:
            return read_plan(path) if path.exists() else None
        except SwapplanError as error:
            LOG.warning("A plan is passed over and made again: %s", error)
            _remove(path)
            return None

    def profile(self, course: str) -> Profile | None:
        """Reads a course's profile, likewise."""
        path = self.profile_path(course)
        try:
            return read_profile(path) if path.exists() else None
        except SwapplanError as error:
            LOG.warning("A profile is passed over and recorded again: %s", error)
            _remove(path)
            return None

    def keep_profile(self, course: str, profile: Profile) -> None:
        """Writes a course's profile.

        Raises:
            FileError: It cannot be written.
        """
        write_profile(profile, self.profile_path(course))


def _remove(path: Path) -> None:
    """What cannot be read is taken away: commands replace only what they know for their own."""
    with suppress(OSError):
        path.unlink()


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        # Another process has just taken it away.
        return 0.0
