"""Profile and plan files changed at random: bytes, values, records, and numbers out of proportion.

The same seed gives the same files.
"""

import copy
import gzip
import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Container = dict[str, Any] | list[Any]

ODD_NUMBERS = (
    *(0, 1, -1, 2, 7, 255, 1024, 10**6, 2**31, 2**32, 2**53, 2**62, 2**62 + 1, 2**63, 2**64),
    *(10**30, 0.0, -0.0, 5e-324, 1e-300, 1e-6, 0.5, 1e12, 1e18, 1e300, 1.7e308, -1.0, float("inf")),
    *(float("-inf"), float("nan")),
)
ODD_TEXTS = (
    *("", " ", "a" * 5000, "begin", "end", "pack:0", "pack:-1", "parameter:", "buffer:training"),
    *(
        "state:0.weight",
        "grad:0",
        "\x1b[31mred\x1b[0m",
        "\u202e",
        "\x00",
        "\ud800",
        "é😀",
        "../../x",
    ),
    *("[red]x[/red]", "[/]", "{0}", "copy_engine", "bitpack_kernel", "periodic", "cuda"),
    *("measured", "library:unet", "/dev/zero", "tiny.py:train"),
)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    *ODD_NUMBERS,
    *ODD_TEXTS,
)


class Broken(NamedTuple):
    """A changed file.

    Attributes:
        data: What it holds.
        how: In words, for a report.
    """

    data: bytes
    how: str


def broken_files(content: Any, seed: int) -> Iterator[Broken]:
    """Yields changed files without end.

    Args:
        content: Of a file that is sound.
        seed: Where choices come from.
    """
    rng = random.Random(seed)
    sound = json.dumps(content).encode()
    while True:
        if rng.random() < 0.15:
            yield _bytes_changed(rng, sound)
        else:
            yield _values_changed(rng, content)


def edited(rng: random.Random, content: Any, count: int) -> tuple[Any, list[str]]:
    """Returns content with some edits, and the edits in words."""
    content = copy.deepcopy(content)
    places = list(_places(content))
    said = []
    for _ in range(count):
        inside, key = rng.choice(places)
        try:
            edit = rng.choice(EDITS)
            said.append(f"{edit.__name__} {key!r}")
            edit(rng, content, inside, key)
        except (LookupError, TypeError):
            # An edit before has taken the place away.
            continue
    return content, said


def _bytes_changed(rng: random.Random, sound: bytes) -> Broken:
    data = bytearray(sound)
    kind = rng.choice(("cut", "flip", "insert", "repeat"))
    at = rng.randrange(len(data))
    if kind == "cut":
        del data[at : at + rng.choice((1, 2, 10, len(data)))]
    elif kind == "flip":
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "insert":
        data[at:at] = rng.choice((b"[" * 2000, b"{}", b",", b'"', b"\x00", b"1" * 5000, b"\xff"))
    else:
        data[at:at] = data[at : at + rng.choice((1, 30, 300))]
    if rng.random() < 0.3:
        packed = bytearray(gzip.compress(bytes(data), mtime=0))
        if rng.random() < 0.5:
            packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
        return Broken(bytes(packed), f"{kind} at {at}, packed")
    return Broken(bytes(data), f"{kind} at {at}")


def _values_changed(rng: random.Random, content: Any) -> Broken:
    changed, said = edited(rng, content, rng.choice((1, 1, 1, 2, 3, 8)))
    # Lone surrogates and NaN are written as Python writes them.
    return Broken(json.dumps(changed).encode(), "; ".join(said))


def _places(content: Any) -> Iterator[tuple[Container, Any]]:
    """Every container within parsed JSON, with each of its keys."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield content, key
            yield from _places(value)
    elif isinstance(content, list):
        for n, value in enumerate(content):
            yield content, n
            yield from _places(value)


def _put_odd(rng: random.Random, _: Any, inside: Any, key: Any) -> None:
    inside[key] = copy.deepcopy(rng.choice(ODD_VALUES))


def _put_odd_of_its_type(rng: random.Random, _: Any, inside: Any, key: Any) -> None:
    value = inside[key]
    if isinstance(value, bool):
        inside[key] = not value
    elif isinstance(value, int):
        odd = [number for number in ODD_NUMBERS if isinstance(number, int) and number >= 0]
        inside[key] = rng.choice(odd)
    elif isinstance(value, float):
        inside[key] = float(rng.choice([number for number in ODD_NUMBERS if number >= 0]))
    elif isinstance(value, str):
        inside[key] = rng.choice(ODD_TEXTS)


def _nudge(rng: random.Random, _: Any, inside: Any, key: Any) -> None:
    value = inside[key]
    if isinstance(value, int | float) and not isinstance(value, bool):
        inside[key] = rng.choice((value + 1, max(0, value - 1), value * 2, value // 2))


def _take_from_elsewhere(rng: random.Random, content: Any, inside: Any, key: Any) -> None:
    """The same field of another record, or any other value."""
    others = [(there, k) for there, k in _places(content) if k == key and there is not inside]
    there, other = rng.choice(others or list(_places(content)))
    inside[key] = copy.deepcopy(there[other])


def _drop(_: random.Random, __: Any, inside: Any, key: Any) -> None:
    del inside[key]


def _double(_: random.Random, __: Any, inside: Any, key: Any) -> None:
    if isinstance(inside, list):
        inside.insert(key, copy.deepcopy(inside[key]))
    else:
        inside[f"{key}_"] = inside[key]


def _swap_neighbours(_: random.Random, __: Any, inside: Any, key: Any) -> None:
    if isinstance(inside, list) and key:
        inside[key - 1], inside[key] = inside[key], inside[key - 1]


def _many(rng: random.Random, _: Any, inside: Any, key: Any) -> None:
    if isinstance(inside[key], list):
        inside[key] = inside[key] * rng.choice((2, 50, 1000))


Edit = Callable[[random.Random, Any, Any, Any], None]
EDITS: tuple[Edit, ...] = (
    _put_odd,
    _put_odd_of_its_type,
    _put_odd_of_its_type,
    _nudge,
    _nudge,
    _take_from_elsewhere,
    _take_from_elsewhere,
    _drop,
    _double,
    _swap_neighbours,
    _many,
)
