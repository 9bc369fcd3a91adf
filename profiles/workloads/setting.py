"""The `--set` pairs a built-in workload understands. Needs no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from profiles.schema.errors import WorkloadError


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One `--set` key.

    Attributes:
        name: The key.
        default: Its value, as the user would write it.
        allowed: What it may be, in words.
        read: Turns the text into a value; raises ValueError if it may not be that.
        numbers: The whole numbers that it may be; None if it is something else.
    """

    name: str
    default: str
    allowed: str
    read: Callable[[str], Any]
    numbers: range | None = None


def read_settings(
    workload: str, known: Sequence[Setting], pairs: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the value of every setting, the default where no pair gives one.

    Raises:
        WorkloadError: A key is unknown, or a value is not allowed.
    """
    names = [setting.name for setting in known]
    for key in pairs:
        if key not in names:
            raise WorkloadError(
                f"{workload} has no setting {key!r}. Settings: {', '.join(names)}; "
                "see 'plan workloads'."
            )
    return {
        setting.name: _read(workload, setting, pairs.get(setting.name, setting.default))
        for setting in known
    }


def _read(workload: str, setting: Setting, text: str) -> Any:
    try:
        return setting.read(text)
    except ValueError:
        raise WorkloadError(
            f"{workload}: {setting.name} is {text!r}, expected {setting.allowed}."
        ) from None


def whole_number(numbers: range) -> Callable[[str], int]:
    """Returns a reader of whole numbers, of these."""

    def read(text: str) -> int:
        value = int(text)
        if value not in numbers:
            raise ValueError(text)
        return value

    return read


def up_to(largest: int, *, smallest: int = 1, multiple_of: int = 1) -> range:
    """Returns the multiples of a number from one of them to another."""
    return range(smallest, largest + 1, multiple_of)


def number(above: float, largest: float) -> Callable[[str], float]:
    """Returns a reader of numbers in a range; its lower end is not in it."""

    def read(text: str) -> float:
        value = float(text)
        if not above < value <= largest:
            raise ValueError(text)
        return value

    return read


def number_from(smallest: float, below: float) -> Callable[[str], float]:
    """Returns a reader of numbers in a range; its upper end is not in it."""

    def read(text: str) -> float:
        value = float(text)
        if not smallest <= value < below:
            raise ValueError(text)
        return value

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """Returns a reader of one word of a few."""

    def read(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return read
