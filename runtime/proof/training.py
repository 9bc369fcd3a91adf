"""One training of a proof: a workload, its own random numbers, and what its steps showed."""

import ctypes
import gc
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import torch

from profiles.hooks.named_storages import owned_storages
from profiles.hooks.plain_tensors import address_of
from profiles.hooks.workload import Workload
from runtime.lanes.emulated import NS_PER_US

SAMPLE_SECONDS = 0.005
KIB = 1024


class ResidentSetPeak:
    """The most anonymous resident memory seen while sampling.

    Anonymous pages are the emulated device and the interpreter; the host pool is shared memory
    and counted apart (`runtime.host.host_pool`).

    Attributes:
        peak_bytes: Measured by sampling, so short peaks can be missed; 0 where the system does not
            tell (other than Linux).
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._done = threading.Event()

    @contextmanager
    def sample(self) -> Iterator[None]:
        """Samples from a thread while the body runs."""
        self._done.clear()
        thread = threading.Thread(target=self._run, name="swapplan-rss", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _run(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, anonymous_bytes())
            if self._done.wait(SAMPLE_SECONDS):
                return


def anonymous_bytes() -> int:
    """Returns the anonymous resident bytes of this process now; 0 where unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    values = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(values[0]) * KIB if values else 0


def give_back_free_memory() -> None:
    """Collects garbage and has the C allocator hand its free pages to the operating system."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        # Not the GNU C library: the figures then include what its allocator keeps.
        return


StepContext = Callable[[], AbstractContextManager[object]]


class Training:
    """A workload being trained, step by step, beside another one.

    [Note: random numbers of two trainings] Dropout draws from generators that the whole process
    shares. Each training keeps the state of its own and puts it back before each of its steps, so
    that two trainings of one seed draw the same numbers however their steps are interleaved.

    Attributes:
        workload: What is trained.
        losses: Each step's loss.
        timed_us: Times of the timed steps.
        peak_bytes: Peak device bytes of the watched steps.
        resident_growth_bytes: Growth of the anonymous resident set while watched, sampled.
    """

    def __init__(
        self, build: Callable[[], Workload], around: Callable[[Workload], "Surroundings"]
    ) -> None:
        """Builds the workload, which seeds the random numbers.

        Args:
            build: Builds the workload from its seed.
            around: Makes what surrounds its steps.
        """
        self.workload = build().held()
        self.losses: list[torch.Tensor] = []
        self.timed_us: list[float] = []
        self.peak_bytes = 0
        self.resident_growth_bytes = 0
        self._random = _random_state()
        self._around = around(self.workload)

    def watched_steps(self, count: int, tell: Callable[[int], None]) -> None:
        """Runs steps whose memory is counted."""
        give_back_free_memory()
        resident_set = ResidentSetPeak()
        before_bytes = anonymous_bytes()
        for done in range(count):
            tell(done)
            with resident_set.sample():
                self._run(self._around.watched)
            self.peak_bytes = max(self.peak_bytes, self._around.peak_bytes())
        self.resident_growth_bytes = max(0, resident_set.peak_bytes - before_bytes)

    def timed_step(self) -> None:
        """Runs one step for its time, with nobody watching."""
        start_ns = time.perf_counter_ns()
        self._run(self._around.timed)
        self.timed_us.append((time.perf_counter_ns() - start_ns) / NS_PER_US)

    def same_losses(self, other: "Training") -> bool:
        """Whether both saw the same losses, bit by bit."""
        return [_bytes_of(loss) for loss in self.losses] == [
            _bytes_of(loss) for loss in other.losses
        ]

    def digests(self) -> tuple[tuple[str, str], ...]:
        """Digest of each parameter, buffer, gradient and optimizer state, by name."""
        return tuple(
            (owner.name, hashlib.sha256(_memory_of(owner.storage)).hexdigest())
            for owner in owned_storages(self.workload.model, self.workload.optimizer)
        )

    def _run(self, around: StepContext) -> None:
        with self._own_random_numbers(), around():
            loss = self.workload.step()
        self.losses.append(loss.detach().clone())

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        _set_random_state(self._random)
        yield
        self._random = _random_state()


class Surroundings:
    """What surrounds the steps of one training.

    Attributes:
        watched: Surrounds a watched step.
        timed: Surrounds a timed step.
        peak_bytes: Tells the peak of the last watched step.
    """

    def __init__(
        self, *, watched: StepContext, timed: StepContext, peak_bytes: Callable[[], int]
    ) -> None:
        self.watched = watched
        self.timed = timed
        self.peak_bytes = peak_bytes


RandomState = tuple[torch.Tensor, object, object]


def _random_state() -> RandomState:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def _set_random_state(state: RandomState) -> None:
    torch_state, python_state, numpy_state = state
    torch.set_rng_state(torch_state)
    random.setstate(python_state)  # type: ignore[arg-type]
    np.random.set_state(numpy_state)  # type: ignore[arg-type]


def _bytes_of(tensor: torch.Tensor) -> bytes:
    """The tensor's own bytes: equal for equal bits, NaN included."""
    return bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())


def _memory_of(storage: torch.UntypedStorage) -> "ctypes.Array[ctypes.c_char]":
    return (ctypes.c_char * storage.nbytes()).from_address(address_of(storage))
