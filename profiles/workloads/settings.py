"""The `--set` pairs that built-in workloads understand. Needs no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from profiles.schema.errors import WorkloadError

ADAM, ADAMW, MOMENTUM, SGD = "adam", "adamw", "momentum", "sgd"
FP32, BF16, FP16 = "fp32", "bf16", "fp16"
YES, NO = "yes", "no"


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
    unknown = next((key for key in pairs if key not in names), None)
    if unknown is not None:
        raise WorkloadError(
            f"{workload} has no setting {unknown!r}. Settings: {', '.join(names)}; "
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


def whole_number(
    name: str, default: str, *, smallest: int = 1, largest: int, multiple_of: int = 1, what: str
) -> Setting:
    """Returns a setting that is a whole number; `what` says what it is, for readers."""
    numbers = range(smallest, largest + 1, multiple_of)
    kind = "a whole number" if multiple_of == 1 else f"a multiple of {multiple_of}"
    return Setting(
        name=name,
        default=default,
        allowed=f"{kind} from {smallest} to {largest} ({what})",
        read=_reader(int, numbers.__contains__),
        numbers=numbers,
    )


def word(name: str, default: str, words: Sequence[str], what: str = "") -> Setting:
    """Returns a setting that is one word of a few, with a remark about them."""
    allowed = f"one of {', '.join(words)}{what and f' {what}'}"
    return Setting(
        name=name, default=default, allowed=allowed, read=_reader(str, words.__contains__)
    )


def _reader(parse: Callable[[str], Any], is_allowed: Callable[[Any], bool]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = parse(text)
        if not is_allowed(value):
            raise ValueError(text)
        return value

    return read


def batch(default: str, largest: int) -> Setting:
    """Returns the setting for how many samples one step takes."""
    return whole_number("batch", default, largest=largest, what="samples in a step")


def sequence(default: str, largest: int) -> Setting:
    """Returns the setting for how many tokens one sample has."""
    return whole_number("sequence", default, smallest=8, largest=largest, what="tokens in a sample")


def resolution(largest: int, multiple_of: int) -> Setting:
    """Returns the setting for the edge of a picture."""
    return whole_number(
        "resolution",
        "224",
        smallest=32,
        largest=largest,
        multiple_of=multiple_of,
        what="edge of a picture, in pixels",
    )


def how_to_train(optimizer: str, learning_rate: str) -> tuple[Setting, ...]:
    """Returns the settings that every workload has, with its own defaults of two of them."""
    kinds = (ADAM, ADAMW, MOMENTUM, SGD)
    states = "(two, two, one and no state per parameter)"
    return (
        word("optimizer", optimizer, kinds, states),
        Setting(
            name="learning_rate",
            default=learning_rate,
            allowed="a number above 0, up to 1",
            read=_reader(float, lambda rate: 0.0 < rate <= 1.0),
        ),
        word(
            "precision",
            FP32,
            (FP32, BF16, FP16),
            f"(autocast in forward; {FP16} with a GradScaler; {FP32} is none)",
        ),
        # No number that `--grow` takes: a step of more batches is longer, not larger.
        replace(
            whole_number(
                "accumulate", "1", largest=64, what="batches in a step; gradients are added up"
            ),
            numbers=None,
        ),
    )


CHECKPOINTING = word(
    "checkpointing",
    NO,
    (NO, YES),
    "(each block is computed again in backward instead of kept)",
)
DROPOUT = Setting(
    name="dropout",
    default="0.1",
    allowed="a number from 0, below 1 (share of values set to zero)",
    read=_reader(float, lambda share: 0.0 <= share < 1.0),
)
