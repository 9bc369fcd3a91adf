"""`--json`: what the tables of a command hold, for other programs to read."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from pydantic import BaseModel


def print_json(**parts: object) -> None:
    """Prints one object, with all rows of each table: sizes in bytes and times in microseconds, as
    the names of their fields say.

    Args:
        parts: Tables of pandas, records, or sequences and mappings of them, by name.
    """
    print(json.dumps(_plain(parts), indent=1, allow_nan=False))


def _plain(content: Any) -> Any:
    """What JSON can hold: what is not known is null."""
    if isinstance(content, BaseModel):
        return _plain(content.model_dump(mode="json"))
    if dataclasses.is_dataclass(content):
        return {one.name: _plain(getattr(content, one.name)) for one in dataclasses.fields(content)}
    if hasattr(content, "reset_index"):
        return _plain(_rows(content))
    if isinstance(content, Mapping):
        return {str(_plain(key)): _plain(value) for key, value in content.items()}
    if isinstance(content, Enum):
        return content.value
    if isinstance(content, Sequence | range) and not isinstance(content, str):
        return [_plain(one) for one in content]
    if hasattr(content, "item"):
        content = content.item()
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _rows(table: Any) -> list[dict[str, Any]]:
    """A pandas table's rows, with its index where that has a name."""
    named = table if table.index.names == [None] else table.reset_index()
    rows: list[dict[str, Any]] = named.astype(object).where(named.notna(), None).to_dict("records")
    return rows
