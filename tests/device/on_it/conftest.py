"""Has torch know the device before anything else is done, and leaves it as a test found it."""

import gc
from collections.abc import Iterator

import pytest
import torch

from tests.device.accelerator import TOTAL_BYTES, accelerator

accelerator()


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """A link that keeps nothing waiting, no delays, all of the memory."""
    yield
    # What a test leaves in circles would count as taken.
    gc.collect()
    torch.accelerator.synchronize()
    extension = accelerator()
    extension.set_link(1e6, 1e6, 0.0)
    extension.set_delays(0, 0.0)
    extension.log(False)
    extension.set_capacity(TOTAL_BYTES)
