"""Sizes, rates and times as people read them."""

import math
from collections.abc import Callable

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
