"""Versioned JSON files: written whole or not at all, read back through a validated model.

Both contracts of the project, the profile file and the plan file, go through this module.
"""

import contextlib
import errno
import functools
import gzip
import json
import operator
import os
import reprlib
import secrets
import stat
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from profiles.schema.bounded_input import SPECIAL_FILES, InputText, input_text
from profiles.schema.errors import FileError, plain, texts_that_are_not_plain

MAX_COUNT = 2**62
"""No machine has as many bytes; and sums and differences of two such numbers fit 64 bits."""
MAX_US = 1e12
"""Eleven days: more than any step takes, or waits."""
MIN_RATE, MAX_RATE = 1e-6, 1e9
"""A byte to a petabyte a second."""

Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
"""A non-negative integer: an index, a number of things, or a number of bytes."""
Microseconds = Annotated[float, Field(ge=0, le=MAX_US, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=MIN_RATE, le=MAX_RATE, allow_inf_nan=False)]
"""Bytes per microsecond; numerically equal to MB/s."""


def _fail_fast(schema: Any) -> None:
    """Sets what pydantic knows as `FailFast` on every sequence within a schema."""
    if isinstance(schema, dict):
        if schema.get("type") in ("tuple", "list"):
            schema["fail_fast"] = True
        for part in schema.values():
            _fail_fast(part)
    elif isinstance(schema, list):
        for part in schema:
            _fail_fast(part)


class Record(BaseModel):
    """Base of every record in a file: frozen, strict about types, no unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Ends validation at the first wrong record of a list: a damaged file has thousands."""
        schema = handler(source)
        _fail_fast(schema)
        return schema


Content = dict[str, Any]
"""What a file holds, parsed and not yet validated."""
Upgrades = Mapping[int, Callable[[Content], Content]]
"""For each older version that is still read, what turns the content of such a file into that of the
next version. It may rely on nothing: the content is not validated."""


class FileRecord(Record):
    """Base of a whole file. A subclass sets `FORMAT`, `VERSION` and `REMAKE`.

    Attributes:
        FORMAT: The magic word of the file.
        VERSION: The version this code reads and writes.
        REMAKE: The command that makes such a file again, for error messages.
    """

    FORMAT: ClassVar[str]
    VERSION: ClassVar[int]
    REMAKE: ClassVar[str]

    format: str
    version: int
    created_by: str

    def header_fault(self) -> str | None:
        """Says what is wrong with the head of a record that came within another file."""
        if (self.format, self.version) == (self.FORMAT, self.VERSION):
            return None
        found, expected = _short(self.format), f"{self.FORMAT!r} version {self.VERSION}"
        return f"it is {found} version {self.version}, expected {expected}"

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Returns a copy with some fields changed."""
        copied = super().model_copy(update=update, deep=deep)
        # Of what was derived from the fields and is cached beside them, a copy begins with nothing.
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


_REPR = reprlib.Repr()
"""Writes down what was found instead of a value: of a large record, its beginning."""
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 200

FileType = TypeVar("FileType", bound=FileRecord)


def write_file(record: FileRecord, path: Path) -> None:
    """Writes a record to `path`, atomically; a path that ends in `.gz` is compressed.

    Raises:
        FileError: The path cannot be written. An older file there is left as it was.
    """
    data = record.model_dump_json().encode()
    fault = _text_fault(json.loads(data)) if b"\\" in data or not data.isascii() else None
    if fault is not None:
        raise FileError(f"{path}: cannot be written: {fault}. Choose another name in the model.")
    write_packed(data, path)


def write_packed(data: bytes, path: Path) -> None:
    """Writes bytes as `write_atomically` does, compressed if `path` ends in `.gz`."""
    # A fixed time stamp keeps the file a function of its content alone.
    write_atomically(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data, path)


def write_atomically(data: bytes, path: Path) -> None:
    """Writes bytes beside `path` and renames them into place.

    What is there keeps its mode and owner; a symlink stays one, and what it leads to is replaced.
    A device or a FIFO that is read from is written into.

    Raises:
        FileError: The path cannot be written.
    """
    try:
        target = _target(path)
        if target is None:
            _write_into(data, path)
        else:
            _replace(data, target)
    except OSError as error:
        raise _unwritable(path, error) from error


def check_writable(path: Path, *, keep: Path | None = None) -> None:
    """Fails now, not after minutes of work, if `path` cannot be written.

    `keep` is what the command reads: it must not be written over.

    Raises:
        FileError: The path cannot be written.
    """
    if keep is not None and path.exists() and keep.exists() and path.samefile(keep):
        raise FileError(f"{path}: this is what is read, and would be lost. Choose another path.")
    try:
        target = _target(path)
        if target is not None:
            with tempfile.TemporaryFile(dir=target.parent):
                pass
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(path, error) from error


def _target(path: Path) -> Path | None:
    """The file that is to be replaced, behind any symlinks; None if it is no file to replace."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        # Perhaps behind a symlink that leads nowhere yet.
        return Path(os.path.realpath(path))
    if stat.S_ISREG(mode):
        return Path(os.path.realpath(path))
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        return None
    kind = "a folder" if stat.S_ISDIR(mode) else SPECIAL_FILES.get(stat.S_IFMT(mode), "no file")
    raise OSError(errno.EINVAL, f"it is {kind}")


def _write_into(data: bytes, path: Path) -> None:
    # Not created, and not waited for until a FIFO has a reader.
    handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)


def _replace(data: bytes, target: Path) -> None:
    # A short name of its own: the target's may be as long as names can be.
    temporary = target.parent / f".swapplan-{secrets.token_hex(6)}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            if target.exists():
                _take_after(handle, target)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _take_after(handle: int, target: Path) -> None:
    """Gives a new file the owner, as far as that is allowed, and the mode of an older one."""
    older, newer = target.stat(), os.fstat(handle)
    if (older.st_uid, older.st_gid) != (newer.st_uid, newer.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(handle, older.st_uid, older.st_gid)
    os.fchmod(handle, stat.S_IMODE(older.st_mode))


def read_file(
    kind: type[FileType],
    path: Path,
    *,
    first_fault: Callable[[FileType], str | None] | None = None,
    upgrades: Upgrades = MappingProxyType({}),
) -> FileType:
    """Reads and validates a file written by `write_file`.

    `first_fault` says what is inconsistent between the records of a file; None if nothing is.

    Raises:
        FileError: The file is missing, truncated, foreign, of another version, too large, or
            edited into something its model or `first_fault` does not allow.
    """
    try:
        read = _read(kind, path)
        version = _checked(kind, path, read, upgrades)
        record = _validated(kind, path, _upgraded(kind, path, version, read, upgrades))
        fault = first_fault(record) if first_fault else None
    except MemoryError as error:
        raise _no_memory(path) from error
    if fault is not None:
        raise FileError(f"{path}: {one_line(fault)}. {_damaged(kind)}")
    return record


def format_of(path: Path) -> str:
    """Returns the magic word of a file, for commands that take either kind.

    Raises:
        FileError: The file is missing, truncated or not one of ours.
    """
    try:
        found = (_read(FileRecord, path).top or {}).get("format")
    except MemoryError as error:
        raise _no_memory(path) from error
    if not isinstance(found, str):
        raise FileError(f"{path}: no swapplan file (it has no 'format'). Give a profile or a plan.")
    return found


def _validated(kind: type[FileType], path: Path, text: bytes) -> FileType:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        fault = validation_fault(error, json.loads(text))
        raise FileError(f"{path}: {fault}. {_damaged(kind)}") from error


def _read(kind: type[FileRecord], path: Path) -> InputText:
    try:
        return input_text(path)
    except FileNotFoundError as error:
        raise FileError(f"{path}: there is no such file. Check the path.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{path}: cannot be read ({reason}). {_damaged(kind)}") from error
    except (EOFError, zlib.error) as error:
        raise FileError(f"{path}: the compressed data end too early. {_damaged(kind)}") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: not JSON, or only part of it. {_damaged(kind)}") from error


def _checked(kind: type[FileRecord], path: Path, read: InputText, upgrades: Upgrades) -> int:
    """The version of a file, if it is one that can be read."""
    found = (read.top or {}).get("format")
    if found == f"{kind.FORMAT}s":
        raise FileError(
            f"{path}: it holds several courses, expected one. Name one by its number, as in "
            f"'{path}#1'; 'plan show {path}' lists them."
        )
    if f"{found}s" == kind.FORMAT:
        raise FileError(
            f"{path}: it holds one course, expected several. Name it without a number; in Python "
            "runtime.load takes it."
        )
    if found != kind.FORMAT:
        raise FileError(
            f"{path}: format is {_short(found)}, expected {kind.FORMAT!r}. "
            f"Make one with '{kind.REMAKE}'."
        )
    version = (read.top or {}).get("version")
    # In Python 3.0 and True are keys of a mapping from integers, too.
    if type(version) is not int or not (version == kind.VERSION or version in upgrades):
        raise FileError(
            f"{path}: {kind.FORMAT} version is {_short(version)}, this swapplan reads "
            f"version {kind.VERSION}. Make it again with '{kind.REMAKE}'."
        )
    if not read.plain:
        fault = _text_fault(json.loads(read.data))
        if fault is not None:
            raise FileError(f"{path}: {fault}. {_damaged(kind)}")
    return version


def _upgraded(
    kind: type[FileRecord], path: Path, version: int, read: InputText, upgrades: Upgrades
) -> bytes:
    if version == kind.VERSION:
        return read.data
    content = json.loads(read.data)
    while version != kind.VERSION:
        try:
            content = {**upgrades[version](content), "version": version + 1}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise FileError(
                f"{path}: not what a {kind.FORMAT} of version {version} holds. {_damaged(kind)}"
            ) from error
        version += 1
    return json.dumps(content).encode()


def _text_fault(content: Content) -> str | None:
    """The first text that a terminal would obey; None if there is none.

    What the user gave to have a workload built is not a name, and is what it must be.
    """
    named = {key: value for key, value in content.items() if key != "workload"}
    place, text = next(texts_that_are_not_plain(named), ("", None))
    if text is None:
        return None
    return f"{place or 'the file'} holds {_short(text)}: control characters are no part of a name"


def _short(found: object) -> str:
    text = plain(_REPR.repr(found))
    return text if len(text) <= 60 else f"{text[:57]}..."


def validation_fault(error: ValidationError, content: Any) -> str:
    """Returns what is wrong first with the content validated, with its place, in one line."""
    # Each of the errors would copy what it found, the whole file for a field that is missing.
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in fault["loc"]).lstrip(".")
    message = one_line(fault["msg"].removeprefix("Value error, "))
    if not place:
        return message
    try:
        found = functools.reduce(operator.getitem, fault["loc"], content)
    except (LookupError, TypeError):
        return f"{plain(place)} is missing"
    return f"{plain(place)} is {_short(found)}: {message[0].lower()}{message[1:]}"


def one_line(text: str) -> str:
    """Returns a text for a message: names in a damaged file may hold line breaks, it may not."""
    return plain(" ".join(text.split()))


def _damaged(kind: type[FileRecord]) -> str:
    remake = getattr(kind, "REMAKE", None)
    again = f": make it again with '{remake}'" if remake else ""
    return f"The file was damaged or edited{again}."


def _no_memory(path: Path) -> FileError:
    return FileError(
        f"{path}: there is not enough memory to read it. Free some, or raise the limit on it."
    )


def _unwritable(path: Path, error: OSError) -> FileError:
    reason = error.strerror or str(error)
    return FileError(f"{path}: cannot be written ({reason}). Choose another path with -o.")


VERSION = "0.1.0"
CREATED_BY = f"swapplan {VERSION}"
