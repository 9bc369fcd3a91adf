"""What an input file holds, of which nothing is known yet: bounded before it is held and parsed.

A gzip stream unpacks to a thousand times its bytes, and a list of empty lists takes twenty times
its text: so text, values and records are counted before they become objects.
"""

import gzip
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from profiles.schema.errors import FileError

GZIP_MAGIC = b"\x1f\x8b"

MAX_BYTES = 32 * 2**20
"""Unpacked. A step of 30,000 ops, three times the largest of the library, takes 9 MiB."""
MAX_VALUES = 1_500_000
"""Numbers, texts and lists. Such a step has 800,000."""
MAX_RECORDS = 250_000
"""Ops, slots, storages, uses, touches. Such a step has 130,000."""
MAX_LISTS = 60_000
"""Of uses and of touches, one each a storage. Such a step has 42,000."""
MAX_FIELDS = 64
"""Of one record. The record with most fields has 18."""

BYTES_EACH, BYTES_A_RECORD, BYTES_A_LIST = 4, 1300, 2000
"""What is read takes at most so much memory while it is validated, by bytes of text and by counts:
measured, 17 times the text of a profile of nothing but ops, and 1.7 kB for an empty list."""

_SMALLER = "Nothing swapplan writes is that large: record a smaller step, or check the path"
SPECIAL_FILES = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
"""What a path may lead to besides files and folders."""


def input_bytes(path: Path) -> bytes:
    """Returns what a file holds, unpacked if it is compressed.

    Raises:
        FileError: It is no regular file, or holds too much.
        OSError: It cannot be read, or its compressed data are damaged.
        EOFError: Its compressed data end too early.
        zlib.error: Its compressed data are damaged.
    """
    with open(path, "rb", opener=_without_waiting) as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode):
            kind = SPECIAL_FILES.get(stat.S_IFMT(found.st_mode), "no file")
            raise FileError(f"{path}: this is {kind}, expected a regular file. Check the path.")
        if found.st_size > MAX_BYTES:
            _refuse(path, "bytes", MAX_BYTES)
        packed = stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        stream.seek(0)
        data = (gzip.GzipFile(fileobj=stream) if packed else stream).read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            _refuse(path, "bytes unpacked", MAX_BYTES)
        return data


_RECORD = object()


class InputText(NamedTuple):
    """The text of a JSON file that is small enough to be parsed.

    Attributes:
        data: The text.
        top: Its outermost record, of which only numbers and texts are of use; None if the outermost
            value is no record.
        plain: Whether all texts within it are known to be.
    """

    data: bytes
    top: dict[str, Any] | None
    plain: bool


def input_text(path: Path) -> InputText:
    """Returns what a JSON file holds, looked through but not kept as objects.

    Raises:
        FileError: As `input_bytes`, or it holds too many values.
        ValueError: It is no JSON.
        RecursionError: It is nested too deep to be parsed.
        MemoryError: There is not enough to parse and validate it.
    """
    data = input_bytes(path)
    # Brackets and commas within texts count as well: honest files have next to none.
    records, lists = data.count(b"{"), data.count(b"[")
    for what, count, most in (
        ("records", records, MAX_RECORDS),
        ("lists", lists, MAX_LISTS),
        ("values", records + lists + data.count(b","), MAX_VALUES),
    ):
        if count > most:
            _refuse(path, what, most)
    # Validation ends the process if it cannot have its memory, so that is asked for here.
    bytearray(BYTES_EACH * len(data) + BYTES_A_RECORD * records + BYTES_A_LIST * lists)
    last: Sequence[tuple[str, Any]] = ()

    def at_record(pairs: Sequence[tuple[str, Any]]) -> object:
        """Keeps only the outermost record, which comes last; in the others' place a marker."""
        nonlocal last
        if len(pairs) > MAX_FIELDS:
            _refuse(path, "fields in one record", MAX_FIELDS)
        last = pairs
        return _RECORD

    outermost = json.loads(data, object_pairs_hook=at_record)
    top = dict(last) if outermost is _RECORD else None
    # A backslash may stand for any character.
    plain = data.isascii() and b"\\" not in data and b"\x7f" not in data
    return InputText(data, top, plain)


def _without_waiting(path: str, flags: int) -> int:
    # A FIFO without a writer would be waited for.
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse(path: Path, what: str, most: int) -> NoReturn:
    raise FileError(f"{path}: more than {most:,} {what}. {_SMALLER}.")
