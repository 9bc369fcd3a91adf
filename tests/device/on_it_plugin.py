"""For the processes of `tests.device.test_on_it`: has torch know the device from the start.

It is no conftest: any process that collects tests would import that, and have an accelerator.
"""

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
