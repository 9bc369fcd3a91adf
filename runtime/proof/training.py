"""One training of a proof: a workload, its own random numbers, and what its steps showed."""

import hashlib
import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from statistics import median

import numpy as np
import torch

from profiles.hooks.named_storages import owned_storages
from profiles.hooks.workload import Workload
from runtime.proof.limited_device import Around, LimitedDevice, StepFigures, anonymous_bytes


class Training:
    """A workload in training on a device, until `finish`; then nothing on the device is held.

    [Note: random numbers of two trainings] Dropout draws from generators that the whole process
    shares. Each training keeps the state of its own and puts it back before each of its steps, so
    that two trainings of one seed draw the same numbers however their steps are interleaved.

    Attributes:
        losses: Each step's loss, in host memory.
        figures: What each watched step took.
        timed: What each step took that was not watched, for its time.
        digests: Digest of each parameter, buffer, gradient and optimizer state, by name; empty
            before the training is finished.
    """

    def __init__(self, workload: Workload, device: LimitedDevice) -> None:
        """Begins a training with the random numbers as building the workload has left them."""
        self.losses: list[torch.Tensor] = []
        self.figures: list[StepFigures] = []
        self.timed: list[StepFigures] = []
        self.digests: tuple[tuple[str, str], ...] = ()
        self._device = device
        self._step = _KeepingStep(workload.held().step)
        self._workload: Workload | None = replace(workload, step=self._step)
        self._random = _random_state()
        self._resident_bytes = 0

    @property
    def workload(self) -> Workload:
        """What is trained."""
        assert self._workload is not None
        return self._workload

    def begin(self) -> None:
        """Notes what the process holds before the first step."""
        self._device.tidy()
        self._resident_bytes = anonymous_bytes() if self._device.in_host_memory else 0

    def step(self, around: Around = nullcontext, *, watched: bool = True) -> None:
        """Runs one step."""
        _set_random_state(self._random)
        figures = self._device.measure(self.workload, around, watched=watched)
        self._random = _random_state()
        (self.figures if watched else self.timed).append(figures)
        # Read when the step is over: reading it inside would wait for the device.
        loss = self._step.take_loss()
        self.losses.append(torch.empty_like(loss, device="cpu").copy_(loss))

    def finish(self) -> None:
        """Reads what training left on the device; a replay must be closed by then."""
        if self._workload is None:
            return
        owned = owned_storages(self._workload.model, self._workload.optimizer)
        self.digests = tuple(
            (owner.name, hashlib.sha256(_bytes_of(owner.storage)).hexdigest()) for owner in owned
        )
        self._workload = None
        del self._step

    @property
    def loss_bytes(self) -> tuple[bytes, ...]:
        """The losses' own bytes: equal for equal bits, NaN included."""
        return tuple(_bytes_of(loss.untyped_storage()).tobytes() for loss in self.losses)

    def same_numbers(self, other: "Training") -> bool:
        """Whether losses and all that is left of both are equal, bit by bit."""
        return (self.loss_bytes, self.digests) == (other.loss_bytes, other.digests)

    @property
    def peak_bytes(self) -> int:
        """Most device bytes of the watched steps."""
        return max(figures.peak_bytes for figures in self.figures)

    @property
    def reserved_bytes(self) -> int | None:
        """Most bytes the allocator held; None where there is none."""
        reserved = (figures.reserved_bytes for figures in self.figures)
        return max((size for size in reserved if size is not None), default=None)

    @property
    def resident_growth_bytes(self) -> int:
        """Growth of the anonymous resident set while watched, sampled; 0 where it is not."""
        most_bytes = max(figures.resident_bytes for figures in self.figures)
        return max(0, most_bytes - self._resident_bytes)

    def steps_us(self, count: int) -> tuple[float, ...]:
        """Times of the last so many steps."""
        return tuple(figures.step_us for figures in (*self.figures, *self.timed)[-count:])

    def step_us(self, count: int) -> float:
        """Median of the last so many steps."""
        return median(self.steps_us(count))


class _KeepingStep:
    """A step that keeps its loss until it is taken."""

    def __init__(self, step: Callable[[], torch.Tensor]) -> None:
        self._step = step
        self._loss: torch.Tensor | None = None

    def __call__(self) -> torch.Tensor:
        self._loss = self._step().detach()
        return self._loss

    def take_loss(self) -> torch.Tensor:
        loss, self._loss = self._loss, None
        assert loss is not None
        return loss


RandomState = tuple[torch.Tensor, object, object]


def _random_state() -> RandomState:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def _set_random_state(state: RandomState) -> None:
    torch_state, python_state, numpy_state = state
    torch.set_rng_state(torch_state)
    random.setstate(python_state)  # type: ignore[arg-type]
    np.random.set_state(numpy_state)  # type: ignore[arg-type]


def _bytes_of(storage: torch.UntypedStorage) -> memoryview:
    """A storage's bytes, wherever it is."""
    flat = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
    return flat.cpu().numpy().data
