"""How a search stands: the best plan so far against the bound."""

from collections.abc import Callable
from dataclasses import dataclass

from profiles.quantities import time_text


@dataclass(frozen=True)
class Standing:
    """The best plan so far.

    Attributes:
        stall_us: Time it makes compute wait, by the scheduler's clock.
        bound_us: No plan can wait less, as far as is known by now.
        compute_us: Step time with nothing moved.
    """

    stall_us: float
    bound_us: float
    compute_us: float

    @property
    def gap(self) -> float:
        """From the bound to the stall, as a share of the best step time."""
        over_us = max(0.0, self.stall_us - self.bound_us)
        return over_us / max(1e-9, self.compute_us + self.bound_us)

    def __str__(self) -> str:
        stall, bound = time_text(self.stall_us), time_text(self.bound_us)
        return f"stall {stall}, bound {bound}, gap {self.gap:.2%}"


Told = Callable[[Standing], None]
"""Called whenever a better plan or bound is known."""


def untold(standing: Standing) -> None:
    """Tells nobody."""
