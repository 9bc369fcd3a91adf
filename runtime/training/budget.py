"""The budget of a training loop: what its steps may use of the device."""

from dataclasses import dataclass
from typing import Self

from profiles.hooks.workload import Training
from profiles.schema.errors import CapacityError
from profiles.schema.units import parse_budget_bytes
from runtime.beyond_capacity.limited_steps import all_there_is_bytes

FITS = "fits"
ANY_PEAK_BYTES = 100 << 30
"""To read a budget by before a step is known."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a step may use of the device.

    Attributes:
        text: As it was asked for.
        to_plan: As `plan solve` takes it.
        limit_bytes: Its bytes; None for a share of what a step needs without a plan.
    """

    text: str
    to_plan: str
    limit_bytes: int | None

    @classmethod
    def of(cls, asked: str | int, training: Training) -> Self:
        """Reads a budget: bytes, a size, a share, or `fits` for what the device has free.

        Raises:
            QuantityError: It is none of these.
            CapacityError: The device has no capacity of its own.
        """
        text = str(asked).strip()
        if text == FITS:
            try:
                limit_bytes = all_there_is_bytes(training)
            except CapacityError as error:
                raise CapacityError(
                    f"budget {FITS!r} is what the device has free, and the emulated one has no "
                    "capacity of its own. Say how much is meant, such as budget='300MiB'."
                ) from error
            return cls(text=text, to_plan=str(limit_bytes), limit_bytes=limit_bytes)
        size_bytes = parse_budget_bytes("budget", text, ANY_PEAK_BYTES)
        is_share = text.endswith("%")
        return cls(text=text, to_plan=text, limit_bytes=None if is_share else size_bytes)

    def bytes_of(self, peak_bytes: int) -> int:
        """Returns its bytes for a step that needs so many without a plan."""
        return self.limit_bytes or parse_budget_bytes("budget", self.text, peak_bytes)
