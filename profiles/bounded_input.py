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
from typing import Any, BinaryIO, NoReturn

from profiles.errors import FileError

GZIP_MAGIC = b"\x1f\x8b"

MAX_BYTES = 32 * 2**20
"""Unpacked. A step of 30,000 ops, three times the largest of the library, takes 9 MiB."""
MAX_VALUES = 2_000_000
"""Numbers, texts and lists. Such a step has 600,000."""
MAX_RECORDS = 400_000
"""Ops, slots, storages, uses. Such a step has 110,000."""
MAX_FIELDS = 64
"""Of one record. The record with most fields has 18."""

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
        return _bounded(path, gzip.GzipFile(fileobj=stream) if packed else stream)


def input_json(path: Path) -> Any:
    """Returns what a JSON file holds, parsed.

    Raises:
        FileError: As `input_bytes`, or it holds too many values.
        ValueError: It is no JSON.
        RecursionError: It is nested too deep to be parsed.
    """
    data = input_bytes(path)
    # Brackets and commas within texts count as well: honest files have next to none.
    records = data.count(b"{")
    if records > MAX_RECORDS:
        _refuse(path, "records", MAX_RECORDS)
    if records + data.count(b"[") + data.count(b",") > MAX_VALUES:
        _refuse(path, "values", MAX_VALUES)

    def record(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        if len(pairs) > MAX_FIELDS:
            _refuse(path, "fields in one record", MAX_FIELDS)
        return dict(pairs)

    return json.loads(data, object_pairs_hook=record)


def _without_waiting(path: str, flags: int) -> int:
    # A FIFO that nobody writes to would be waited for.
    return os.open(path, flags | os.O_NONBLOCK)


def _bounded(path: Path, stream: BinaryIO | gzip.GzipFile) -> bytes:
    data = stream.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        _refuse(path, "bytes unpacked", MAX_BYTES)
    return data


def _refuse(path: Path, what: str, most: int) -> NoReturn:
    raise FileError(f"{path}: more than {most:,} {what}. {_SMALLER}.")
