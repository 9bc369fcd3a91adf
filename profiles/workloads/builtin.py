"""What a workload that comes with the project is, and the settings several of them share."""

from dataclasses import dataclass

from profiles.workloads.setting import Setting, number, number_from, one_of, up_to, whole_number

ADAM, ADAMW, MOMENTUM, SGD = "adam", "adamw", "momentum", "sgd"
FP32, BF16, FP16 = "fp32", "bf16", "fp16"
YES, NO = "yes", "no"
MOST_BATCHES = 64


@dataclass(frozen=True, kw_only=True)
class Builtin:
    """A workload that comes with the project.

    Attributes:
        name: What the user types.
        summary: One line for `plan workloads`.
        settings: Its `--set` keys.
        module: The module whose `build(**settings)` returns the `Workload`.
        extra: The pip extra with the packages it needs.
    """

    name: str
    summary: str
    settings: tuple[Setting, ...]
    module: str
    extra: str = "models"


def batch(default: str, largest: int) -> Setting:
    """Returns the setting for how many samples one step takes."""
    numbers = up_to(largest)
    return Setting(
        name="batch",
        default=default,
        allowed=f"a whole number from 1 to {largest} (samples in a step)",
        read=whole_number(numbers),
        numbers=numbers,
    )


def size(default: str, *names: str) -> Setting:
    """Returns the setting for which of a family's models is trained."""
    return Setting(
        name="size", default=default, allowed=f"one of {', '.join(names)}", read=one_of(*names)
    )


def sequence(default: str, largest: int) -> Setting:
    """Returns the setting for how many tokens one sample has."""
    numbers = up_to(largest, smallest=8)
    return Setting(
        name="sequence",
        default=default,
        allowed=f"a whole number from 8 to {largest} (tokens in a sample)",
        read=whole_number(numbers),
        numbers=numbers,
    )


def resolution(default: str, smallest: int, largest: int, multiple_of: int) -> Setting:
    """Returns the setting for the edge of a picture."""
    numbers = up_to(largest, smallest=smallest, multiple_of=multiple_of)
    return Setting(
        name="resolution",
        default=default,
        allowed=f"a multiple of {multiple_of} from {smallest} to {largest} (edge of a picture, in "
        "pixels)",
        read=whole_number(numbers),
        numbers=numbers,
    )


def optimizer(default: str) -> Setting:
    """Returns the setting for what updates the parameters."""
    kinds = (ADAM, ADAMW, MOMENTUM, SGD)
    return Setting(
        name="optimizer",
        default=default,
        allowed=f"one of {', '.join(kinds)} (two, two, one and no state per parameter)",
        read=one_of(*kinds),
    )


def learning_rate(default: str) -> Setting:
    """Returns the setting for the optimizer's learning rate."""
    return Setting(
        name="learning_rate",
        default=default,
        allowed="a number above 0, up to 1",
        read=number(0.0, 1.0),
    )


PRECISION = Setting(
    name="precision",
    default=FP32,
    allowed=f"one of {FP32}, {BF16}, {FP16} (autocast in forward; {FP16} with a GradScaler; {FP32} "
    "is none)",
    read=one_of(FP32, BF16, FP16),
)
ACCUMULATE = Setting(
    name="accumulate",
    default="1",
    allowed=f"a whole number from 1 to {MOST_BATCHES} (batches in a step; gradients are added up)",
    read=whole_number(up_to(MOST_BATCHES)),
)
CHECKPOINTING = Setting(
    name="checkpointing",
    default=NO,
    allowed=f"one of {NO}, {YES} (each block is computed again in backward instead of kept)",
    read=one_of(NO, YES),
)
DROPOUT = Setting(
    name="dropout",
    default="0.1",
    allowed="a number from 0, below 1 (share of values set to zero)",
    read=number_from(0.0, 1.0),
)
