"""Sizes, rates and times as people read them."""

import math
import re
from collections.abc import Callable

from profiles.schema.errors import QuantityError
from profiles.schema.files import MAX_COUNT, MAX_RATE, MIN_RATE

UNIT_BYTES = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
US_PER_S = 1e6


def size_text_up(size_bytes: int) -> str:
    """Writes bytes rounded up: what is asked for again must be enough."""
    return _rounded_size_text(size_bytes, math.ceil)


def size_text_down(size_bytes: int) -> str:
    """Writes bytes rounded down."""
    return _rounded_size_text(size_bytes, math.floor)


def size_text(size_bytes: float) -> str:
    """Writes bytes with the largest unit that leaves at least one: `1.50 GiB`."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes >= UNIT_BYTES[unit]:
            return f"{size_bytes / UNIT_BYTES[unit]:.2f} {unit}"
    return f"{size_bytes:.0f} B"


def rate_text(bytes_per_us: float) -> str:
    """Writes a rate with the largest unit that leaves at least one: `12.00 GB/s`."""
    bytes_per_s = bytes_per_us * US_PER_S
    for unit in ("GB", "MB", "kB"):
        if bytes_per_s >= UNIT_BYTES[unit]:
            return f"{bytes_per_s / UNIT_BYTES[unit]:.2f} {unit}/s"
    return f"{bytes_per_s:.2g} B/s"


def time_text(duration_us: float) -> str:
    """Writes a time: `3.21 s`, `45.6 ms` or `7 us`."""
    if duration_us >= 1e6:
        return f"{duration_us / 1e6:.2f} s"
    if duration_us >= 1e3:
        return f"{duration_us / 1e3:.1f} ms"
    return f"{duration_us:.0f} us"


def _rounded_size_text(size_bytes: int, round_to_int: Callable[[float], int]) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size_bytes >= UNIT_BYTES[unit]:
            return f"{round_to_int(100 * size_bytes / UNIT_BYTES[unit]) / 100:.2f} {unit}"
    return f"{size_bytes} bytes"


__all__ = [
    "parse_budget_bytes",
    "parse_rate_bytes_per_us",
    "parse_size_bytes",
    "rate_text",
    "size_text",
    "time_text",
]

SIZE_EXAMPLES = "a size above 0 such as 8GiB, 512MB or 1.5e9 (bytes)"
BUDGET_EXAMPLES = f"{SIZE_EXAMPLES}, or a share of the no-plan peak such as 60%"
RATE_EXAMPLES = "a rate above 0 such as 12GB/s or 800MiB/s"
_NUMBER_AND_UNIT = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([^\s]*)\s*")


def parse_size_bytes(option: str, text: str) -> int:
    """Reads `8GiB`, `512MB` or `1.5e9`.

    Raises:
        QuantityError: It is no size, or not above 0.
    """
    number, unit = _split(option, text, SIZE_EXAMPLES)
    size = number * _unit_bytes(option, text, unit or "B", SIZE_EXAMPLES)
    return _whole_bytes(option, text, size, SIZE_EXAMPLES)


def parse_budget_bytes(option: str, text: str, peak_bytes: int) -> int:
    """Reads a size, or a share of the no-plan peak such as `60%`.

    Raises:
        QuantityError: It is neither, or not above 0.
    """
    number, unit = _split(option, text, BUDGET_EXAMPLES)
    scale = (
        peak_bytes / 100 if unit == "%" else _unit_bytes(option, text, unit or "B", BUDGET_EXAMPLES)
    )
    return _whole_bytes(option, text, number * scale, BUDGET_EXAMPLES)


def parse_rate_bytes_per_us(option: str, text: str) -> float:
    """Reads `12GB/s`.

    Raises:
        QuantityError: It is no rate, or not above 0.
    """
    number, unit = _split(option, text, RATE_EXAMPLES)
    if not unit.endswith("/s"):
        raise _unreadable(option, text, RATE_EXAMPLES)
    rate = number * _unit_bytes(option, text, unit.removesuffix("/s"), RATE_EXAMPLES) / US_PER_S
    if not MIN_RATE <= rate <= MAX_RATE:
        raise _unreadable(option, text, RATE_EXAMPLES)
    return rate


def _split(option: str, text: str, expected: str) -> tuple[float, str]:
    match = _NUMBER_AND_UNIT.fullmatch(text)
    try:
        number = float(match[1]) if match else math.nan
    except ValueError:
        number = math.nan
    if match is None or math.isnan(number):
        raise _unreadable(option, text, expected)
    return number, match[2]


def _unit_bytes(option: str, text: str, unit: str, expected: str) -> int:
    if unit not in UNIT_BYTES:
        raise QuantityError(
            f"{option} is {text!r}: there is no unit {unit!r} here, expected {expected}. "
            f"Units: {', '.join(UNIT_BYTES)}."
        )
    return UNIT_BYTES[unit]


def _whole_bytes(option: str, text: str, size: float, expected: str) -> int:
    if not 1 <= size <= MAX_COUNT:
        raise _unreadable(option, text, expected)
    return int(size)


def _unreadable(option: str, text: str, expected: str) -> QuantityError:
    return QuantityError(f"{option} is {text!r}, expected {expected}.")
