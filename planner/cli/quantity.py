"""Sizes, rates and budgets as people write them."""

import math
import re

from profiles.errors import QuantityError
from profiles.files import MAX_COUNT, MAX_RATE, MIN_RATE
from profiles.quantities import UNIT_BYTES, US_PER_S, rate_text, size_text, time_text

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
