"""The accelerator that trainings are tried on: the asynchronous device, or a GPU if there is one.

The same trainings run on both: on the device races are seen, on a GPU everything is real.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Protocol

import torch

from profiles.recording.device import device_at_hand
from profiles.schema.profile import CUDA, Link
from tests.device.accelerator import accelerator, device
from tests.device.races import Entry


class TrialDevice(Protocol):
    """An accelerator under test.

    Attributes:
        device: The device.
    """

    device: torch.device

    def keep_to(self, link: Link) -> None:
        """Has copies keep the rates of a link, where rates can be set."""

    def capacity(self, size_bytes: int, page_bytes: int = 0) -> AbstractContextManager[None]:
        """Has the device refuse more memory than that, where it can to the byte.

        With pages it is those that count which hold anything: what lies in pieces takes more.
        """

    def disturbed(
        self, seed: int, link: Link, most_delay_us: float
    ) -> AbstractContextManager[list[Entry]]:
        """Delays work at random over a link, where it can.

        The list has the device's log when the block has ended; it is empty if there is none.
        """


class AsynchronousDevice:
    """The device of these tests."""

    def __init__(self) -> None:
        self.device = device()

    def keep_to(self, link: Link) -> None:
        """Sets the rates."""
        accelerator().set_link(link.d2h_bytes_per_us, link.h2d_bytes_per_us, link.latency_us)

    @contextmanager
    def capacity(self, size_bytes: int, page_bytes: int = 0) -> Iterator[None]:
        """Sets the capacity."""
        torch.accelerator.empty_cache()
        accelerator().set_page(page_bytes)
        accelerator().set_capacity(size_bytes)
        try:
            yield
        finally:
            accelerator().set_capacity(accelerator().total_bytes())
            accelerator().set_page(0)

    @contextmanager
    def disturbed(self, seed: int, link: Link, most_delay_us: float) -> Iterator[list[Entry]]:
        """Delays what its streams do."""
        extension, log = accelerator(), list[Entry]()
        self.keep_to(link)
        extension.set_delays(seed, most_delay_us)
        extension.log(True)
        try:
            yield log
            torch.accelerator.synchronize()
            log.extend(Entry(*entry) for entry in extension.entries())
        finally:
            extension.log(False)
            extension.set_delays(0, 0.0)


class Gpu:
    """A GPU: its link is what it is, and its allocator reserves segments of 2 MiB and more, which
    is beyond what these trainings take. Their peaks are compared with the budget instead."""

    def __init__(self) -> None:
        self.device = device_at_hand(CUDA)

    def keep_to(self, link: Link) -> None:
        """Does nothing."""

    def capacity(self, size_bytes: int, page_bytes: int = 0) -> AbstractContextManager[None]:
        """Refuses nothing."""
        return nullcontext()

    def disturbed(
        self, seed: int, link: Link, most_delay_us: float
    ) -> AbstractContextManager[list[Entry]]:
        """Disturbs nothing and logs nothing."""
        return nullcontext([])


@cache
def trial_device() -> TrialDevice:
    """Returns the accelerator that trainings are tried on."""
    return Gpu() if torch.cuda.is_available() else AsynchronousDevice()
