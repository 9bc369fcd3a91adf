"""The process's own memory, as the operating system counts it."""

import ctypes
import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SAMPLE_SECONDS = 0.005
KIB = 1024


class ResidentSetPeak:
    """The most anonymous resident memory seen while sampling.

    Anonymous pages are the emulated device and the interpreter; the host pool is shared memory
    and counted apart (`runtime.host_pool`).

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
