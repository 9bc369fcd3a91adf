"""Runs tests on the asynchronous device: `-p tests.device.on_it_plugin`.

Those of `tests/device/on_it` name the device themselves. For all others it is torch's default, as
`torch.set_default_device` makes it for a user: the models and batches that they build are on it,
and what they train on the emulated accelerator otherwise is trained there. What is marked
`cpu_only` is left out.

It is no conftest: any process that collects tests would import that, and have an accelerator.
"""

import gc
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from runtime.lanes.measure import measure_link
from runtime.training import within
from tests.device.accelerator import TOTAL_BYTES, accelerator, device

ON_IT = Path(__file__).parent / "on_it"

accelerator()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what says something of the emulated accelerator, or of host memory."""
    left_out = [item for item in items if item.get_closest_marker("cpu_only")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="module", autouse=True)
def _is_default(request: pytest.FixtureRequest) -> Iterator[None]:
    names_it = request.path.is_relative_to(ON_IT)
    torch.set_default_device(None if names_it else device())
    yield
    torch.set_default_device(None)


@pytest.fixture(scope="session", autouse=True)
def _measured_once() -> Iterator[None]:
    """To measure its link takes longer than most tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(within, "measure_link", cache(measure_link))
        yield


def _remove_hooks_of_parameters() -> None:
    """Collecting does not see what these hold, so a training updated by them would live for good.

    That is so in plain PyTorch, too.
    """
    for found in gc.get_objects():
        # Not `isinstance`, which looks behind proxies of what is gone.
        if issubclass(type(found), torch.Tensor) and found._post_accumulate_grad_hooks:
            found._post_accumulate_grad_hooks.clear()


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """A link that keeps nothing waiting, no delays, all of the memory."""
    modules = len(sys.modules)
    yield
    # What a test leaves would count as taken.
    _remove_hooks_of_parameters()
    gc.collect()
    if len(sys.modules) > modules:
        # So that collecting, which trainings ask for before and after each, looks at no library.
        gc.freeze()
    torch.accelerator.synchronize()
    extension = accelerator()
    extension.set_link(1e6, 1e6, 0.0)
    extension.set_delays(0, 0.0)
    extension.log(False)
    extension.set_capacity(TOTAL_BYTES)
