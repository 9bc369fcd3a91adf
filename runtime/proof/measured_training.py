"""A training whose steps are measured one by one, on a device that counts its own memory."""

import hashlib
from dataclasses import dataclass, replace
from statistics import median

import torch

from profiles.hooks.named_storages import owned_storages
from profiles.hooks.workload import Workload
from runtime.proof.limited_device import Around, LimitedDevice, StepFigures


@dataclass(frozen=True)
class FinishedTraining:
    """A training that is over; nothing on the device is held any more.

    Attributes:
        losses: Each step's loss, in host memory.
        digests: Digest of each parameter, buffer, gradient and optimizer state, by name.
        figures: What each step took.
    """

    losses: tuple[torch.Tensor, ...]
    digests: tuple[tuple[str, str], ...]
    figures: tuple[StepFigures, ...]

    @property
    def loss_bytes(self) -> tuple[bytes, ...]:
        """The losses' own bytes: equal for equal bits, NaN included."""
        return tuple(bytes_of(loss.untyped_storage()) for loss in self.losses)

    def same_numbers(self, other: "FinishedTraining") -> bool:
        """Whether losses and all that is left of both are equal, bit by bit."""
        return (self.loss_bytes, self.digests) == (other.loss_bytes, other.digests)

    @property
    def peak_bytes(self) -> int:
        """Most bytes allocated."""
        return max(figures.peak_bytes for figures in self.figures)

    @property
    def reserved_bytes(self) -> int | None:
        """Most bytes the allocator held."""
        reserved = (figures.reserved_bytes for figures in self.figures)
        return max((size for size in reserved if size is not None), default=None)

    def steps_us(self, count: int) -> tuple[float, ...]:
        """Times of the last so many steps."""
        return tuple(figures.step_us for figures in self.figures[-count:])

    def step_us(self, count: int) -> float:
        """Median of the last so many steps."""
        return median(self.steps_us(count))


class MeasuredTraining:
    """A workload in training."""

    def __init__(self, workload: Workload) -> None:
        self._trained = workload.held()
        self._losses: list[torch.Tensor] = []
        self._figures: list[StepFigures] = []

    def step(self, around: Around, ground: LimitedDevice) -> None:
        """Runs one step."""
        last: list[torch.Tensor] = []

        def kept() -> torch.Tensor:
            last.append(self._trained.step().detach())
            return last[0]

        self._figures.append(ground.measure(replace(self._trained, step=kept), around))
        # Read when the step is over: reading it inside would wait for the device.
        loss = last.pop()
        self._losses.append(torch.empty_like(loss, device="cpu").copy_(loss))

    def finished(self) -> FinishedTraining:
        """Reads what training left on the device; a replay must be closed by then."""
        return FinishedTraining(
            losses=tuple(self._losses),
            digests=tuple(
                (owner.name, hashlib.sha256(bytes_of(owner.storage)).hexdigest())
                for owner in owned_storages(self._trained.model, self._trained.optimizer)
            ),
            figures=tuple(self._figures),
        )


def bytes_of(storage: torch.UntypedStorage) -> bytes:
    """A storage's bytes, wherever it is."""
    flat = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    return bytes(flat.cpu().numpy())
