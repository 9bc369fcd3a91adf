"""What the library holds, read without opening its profiles. Needs no torch."""

from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from profiles.schema.errors import FileError, did_you_mean
from profiles.schema.files import Count, FileRecord, Microseconds, Record, read_file
from profiles.schema.profile import Provenance

PREFIX = "library:"
ENDING = ".profile.json.gz"
INDEX = "index.json"


class Entry(Record):
    """One profile of the library.

    Attributes:
        name: What follows `library:`.
        command: What makes the file again, without its `-o`.
        device: The device's own name.
        peak_bytes: Most memory the step needs with nothing swapped.
        step_us: Time of the step with nothing swapped.
    """

    name: str
    command: str
    device: str
    device_bytes: Count
    peak_bytes: Count
    step_us: Microseconds
    times: Provenance
    ops: Count


class WorkloadSize(Record):
    """How large a built-in workload is with its default settings, estimated.

    Attributes:
        parameters: How many numbers its model has.
        activation_bytes: Bytes that its forward pass keeps for its backward pass.
    """

    workload: str
    parameters: Count
    parameter_bytes: Count
    activation_bytes: Count


class Index(FileRecord):
    """The library's table of contents: its profiles, and the built-in workloads."""

    FORMAT: ClassVar[str] = "swapplan-library"
    VERSION: ClassVar[int] = 1
    REMAKE: ClassVar[str] = "make library"

    entries: tuple[Entry, ...]
    workloads: tuple[WorkloadSize, ...]


def folder() -> Path:
    """Returns where the library's files are."""
    return Path(str(files("profiles.library")))


def read_index() -> Index:
    """Reads the table of contents.

    Raises:
        FileError: The installation lacks it, or it was damaged.
    """
    return read_file(Index, folder() / INDEX)


def profile_path(given: Path) -> Path:
    """Returns the file behind `library:NAME`, and any other path as it is.

    Raises:
        FileError: The library has no profile of that name; the message names the nearest.
    """
    text = str(given)
    if not text.startswith(PREFIX):
        return given
    name = text.removeprefix(PREFIX)
    names = [entry.name for entry in read_index().entries]
    if name in names:
        return folder() / f"{name}{ENDING}"
    hint = did_you_mean(name, names, "'plan library' lists what there is.")
    raise FileError(f"the library has no profile {name!r}. {hint}")
