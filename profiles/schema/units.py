"""Sizes, rates and times as people read and write them."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

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
BINARY, DECIMAL = ("TiB", "GiB", "MiB", "KiB"), ("GB", "MB", "kB")
US_PER_S = 1e6
US_PER_MS = 1_000
NS_PER_US = 1_000
SIZE_EXAMPLES = "a size above 0 such as 8GiB, 512MB or 1.5e9 (bytes)"
BUDGET_EXAMPLES = f"{SIZE_EXAMPLES}, or a share of the no-plan peak such as 60%"
OR_NOTHING_EXAMPLES = f"{SIZE_EXAMPLES}, or 0"
RATE_EXAMPLES = "a rate above 0 such as 12GB/s or 800MiB/s"
_NUMBER_AND_UNIT = re.compile(r"\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*([^\s]*)\s*")


def size_text_up(size_bytes: int) -> str:
    """Writes bytes rounded up: what is asked for again must be enough."""
    return _rounded_size_text(size_bytes, math.ceil)


def size_text_down(size_bytes: int) -> str:
    """Writes bytes rounded down."""
    return _rounded_size_text(size_bytes, math.floor)


def size_text(size_bytes: float) -> str:
    """Writes bytes with the largest unit that leaves at least one: `1.50 GiB`."""
    unit = _largest_unit(size_bytes, BINARY)
    return f"{size_bytes / UNIT_BYTES[unit]:.2f} {unit}" if unit else f"{size_bytes:.0f} B"


def rate_text(bytes_per_us: float) -> str:
    """Writes a rate with the largest unit that leaves at least one: `12.00 GB/s`."""
    bytes_per_s = bytes_per_us * US_PER_S
    unit = _largest_unit(bytes_per_s, DECIMAL)
    return f"{bytes_per_s / UNIT_BYTES[unit]:.2f} {unit}/s" if unit else f"{bytes_per_s:.2g} B/s"


def time_text(duration_us: float) -> str:
    """Writes a time: `3.21 s`, `45.6 ms` or `7 us`."""
    if duration_us >= 1e6:
        return f"{duration_us / 1e6:.2f} s"
    if duration_us >= 1e3:
        return f"{duration_us / 1e3:.1f} ms"
    return f"{duration_us:.0f} us"


def _rounded_size_text(size_bytes: int, round_to_int: Callable[[float], int]) -> str:
    unit = _largest_unit(size_bytes, BINARY)
    if unit is None:
        return f"{size_bytes} bytes"
    return f"{round_to_int(100 * size_bytes / UNIT_BYTES[unit]) / 100:.2f} {unit}"


def _largest_unit(size_bytes: float, units: Sequence[str]) -> str | None:
    # A list: an interrupt inside a generator that ends early would be passed over.
    large_enough = [unit for unit in units if size_bytes >= UNIT_BYTES[unit]]
    return large_enough[0] if large_enough else None


def parse_size_bytes(option: str, text: str) -> int:
    """Reads `8GiB`, `512MB` or `1.5e9`.

    Raises:
        QuantityError: It is no size, or not above 0.
    """
    return _parse_bytes(option, text, SIZE_EXAMPLES, UNIT_BYTES)


def parse_size_or_nothing_bytes(option: str, text: str) -> int:
    """Reads a size, or 0.

    Raises:
        QuantityError: It is neither.
    """
    number, unit = _split(option, text, OR_NOTHING_EXAMPLES)
    size = number * _unit_bytes(option, text, unit or "B", OR_NOTHING_EXAMPLES, UNIT_BYTES)
    return 0 if size == 0 else _parse_bytes(option, text, OR_NOTHING_EXAMPLES, UNIT_BYTES)


def parse_budget_bytes(option: str, text: str, peak_bytes: int) -> int:
    """Reads a size, or a share of the no-plan peak such as `60%`.

    Raises:
        QuantityError: It is neither, or not above 0.
    """
    return _parse_bytes(option, text, BUDGET_EXAMPLES, UNIT_BYTES | {"%": peak_bytes / 100})


def parse_rate_bytes_per_us(option: str, text: str) -> float:
    """Reads `12GB/s`.

    Raises:
        QuantityError: It is no rate, or not above 0.
    """
    number, unit = _split(option, text, RATE_EXAMPLES)
    if not unit.endswith("/s"):
        raise _unreadable(option, text, RATE_EXAMPLES)
    rate = number * _unit_bytes(option, text, unit.removesuffix("/s"), RATE_EXAMPLES, UNIT_BYTES)
    rate /= US_PER_S
    if not MIN_RATE <= rate <= MAX_RATE:
        raise _unreadable(option, text, RATE_EXAMPLES)
    return rate


def _parse_bytes(option: str, text: str, expected: str, units: Mapping[str, float]) -> int:
    number, unit = _split(option, text, expected)
    size = number * _unit_bytes(option, text, unit or "B", expected, units)
    if not 1 <= size <= MAX_COUNT:
        raise _unreadable(option, text, expected)
    return int(size)


def _split(option: str, text: str, expected: str) -> tuple[float, str]:
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is not None:
        with suppress(ValueError):
            return float(match[1]), match[2]
    raise _unreadable(option, text, expected)


def _unit_bytes(
    option: str, text: str, unit: str, expected: str, units: Mapping[str, float]
) -> float:
    if unit not in units:
        raise QuantityError(
            f"{option} is {text!r}: there is no unit {unit!r} here, expected {expected}. "
            f"Units: {', '.join(UNIT_BYTES)}."
        )
    return units[unit]


def _unreadable(option: str, text: str, expected: str) -> QuantityError:
    return QuantityError(f"{option} is {text!r}, expected {expected}.")
