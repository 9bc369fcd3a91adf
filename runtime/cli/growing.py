"""A workload of which one setting grows, estimated for a device that need not be there."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from profiles.schema.errors import QuantityError, WorkloadError
from profiles.schema.profile import WorkloadSource
from profiles.schema.progress import silent
from runtime.cli.estimating import RECORDED, estimate_step, usual_link

if TYPE_CHECKING:
    from profiles.hardware.accelerators import Accelerator
    from profiles.schema.profile import Profile
    from profiles.workloads.catalog import Builtin

SET_ASIDE_BYTES = 1 << 30
"""Of a device's memory: taken, not measured, to be what CUDA's context and fragments use."""
MOST_TRIED = 1 << 20
"""The largest value of a setting of which nobody said how large it may be."""


class Growing:
    """A workload of which one setting grows.

    Attributes:
        workload: What the user called it.
        key: The setting.
        numbers: What it may be, rising.
        others: The settings that stay as they are.
        accelerator: What it is estimated for.
    """

    def __init__(
        self, others: WorkloadSource, key: str, numbers: Sequence[int], accelerator: "Accelerator"
    ) -> None:
        self.workload = others.reference
        self.key = key
        self.numbers = numbers
        self.others = others.settings
        self.accelerator = accelerator
        self._seed = others.seed
        self.profile = lru_cache(maxsize=None)(self._estimate)

    @property
    def title(self) -> str:
        """The workload with the settings that stay."""
        return " ".join([self.workload, *(f"{key}={value}" for key, value in self.others)])

    @property
    def about(self) -> dict[str, str]:
        """What every plan for it has in common."""
        return {
            "workload": self.title,
            "grown": self.key,
            "device": self.accelerator.name,
        }

    @property
    def usable_bytes(self) -> int:
        """What a step can use of the device's memory."""
        return self.accelerator.memory_bytes - SET_ASIDE_BYTES

    def source(self, number: int) -> WorkloadSource:
        """Returns how the workload with one value of the setting is built."""
        return WorkloadSource(
            reference=self.workload,
            settings=(*self.others, (self.key, str(number))),
            seed=self._seed,
        )

    def _estimate(self, number: int) -> "Profile":
        device = self.accelerator.name
        try:
            return estimate_step(self.source(number), usual_link(device), device, silent)
        except (RuntimeError, ValueError) as error:
            # Too small a number can be one that the step itself refuses.
            raise WorkloadError(
                f"{self.title} {self.key}={number} cannot be estimated: {error} If the number is "
                "too small, --multiple-of keeps it out."
            ) from error


def choose_growing(
    reference: str,
    *,
    key: str,
    device: str,
    settings: tuple[tuple[str, str], ...],
    seed: int,
    multiple_of: int | None = None,
) -> Growing:
    """Returns what the options name.

    Args:
        reference: The workload.
        key: `--grow`.
        device: `--device`.
        settings: The pairs of `--set`.
        seed: `--seed`.
        multiple_of: `--multiple-of`; None for what the workload takes.

    Raises:
        QuantityError: There is no such device, or no such numbers.
        WorkloadError: There is no such workload or setting, or it is no number.
    """
    from profiles.hardware.accelerators import accelerator_named
    from profiles.workloads.build import check
    from profiles.workloads.catalog import WORKLOADS

    if device in RECORDED:
        raise QuantityError(
            f"--device is {device!r}, but nothing is run here: steps are estimated. Name an "
            "accelerator such as v100-16gb or h200."
        )
    if any(given == key for given, _ in settings):
        raise QuantityError(f"--set {key} and --grow {key}: it grows, so leave it out of --set.")
    others = WorkloadSource(reference=reference, settings=settings, seed=seed)
    check(others)
    builtin = WORKLOADS.get(reference)
    numbers = _any_number() if builtin is None else _numbers_of(builtin, key)
    if multiple_of is not None:
        numbers = _multiples(numbers, key, multiple_of)
    return Growing(others, key, numbers, accelerator_named(device))


def _any_number() -> Sequence[int]:
    return range(1, MOST_TRIED + 1)


def _numbers_of(builtin: "Builtin", key: str) -> Sequence[int]:
    growing = {one.name: one.numbers for one in builtin.settings if one.numbers is not None}
    if key not in growing:
        raise WorkloadError(
            f"{builtin.name} has no setting {key!r} that is a whole number. --grow takes "
            f"{', '.join(growing)}."
        )
    return growing[key]


def _multiples(numbers: Sequence[int], key: str, multiple_of: int) -> Sequence[int]:
    multiples = tuple(number for number in numbers if number % multiple_of == 0)
    if not multiples:
        raise QuantityError(
            f"--multiple-of is {multiple_of}, but {key} is at most {numbers[-1]}. Give a "
            "smaller one."
        )
    return multiples
