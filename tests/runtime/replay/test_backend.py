"""What is said of replay on CUDA, as long as nobody has seen it run."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import torch

from runtime.host.host_pool import HostPool
from runtime.lanes import copy_device
from runtime.lanes.streams import StreamDevice, StreamLane
from runtime.replay import backend
from runtime.replay.backend import Watch, backend_for
from tests.support.training.fake_streams import FakeStreams
from tests.support.training.recorded import everything_away_plan

RESULTS = Path(__file__).parents[3] / "results" / "gpu"
GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _not_logged_yet() -> Iterator[None]:
    backend._warn_untried.cache_clear()
    yield
    backend._warn_untried.cache_clear()


def test_a_plan_for_cuda_gets_streams_and_one_notice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything but the streams and the pinning is what runs on a GPU."""
    plan = everything_away_plan("unet3d")
    device = plan.device.model_copy(update={"kind": "cuda", "compute_threads": 0})
    plan = plan.model_copy(update={"device": device})
    streams = FakeStreams()
    pinned: list[tuple[int, torch.device]] = []

    def pool(size_bytes: int, device: torch.device) -> HostPool:
        pinned.append((size_bytes, device))
        return HostPool(size_bytes)

    monkeypatch.setattr(backend, "is_at_hand", lambda kind: kind == "cuda")
    monkeypatch.setattr(backend, "device_name", lambda device: plan.device.name)
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda device: 17)
    monkeypatch.setattr(backend, "DeviceStreams", lambda *_: streams)
    monkeypatch.setattr(copy_device, "PinnedHostPool", pool)
    with caplog.at_level(logging.WARNING, logger="swapplan"):
        made = [backend_for(plan, GPU) for _ in range(2)]
    assert caplog.messages == [backend.NOTICE], "once"
    monkeypatch.setattr(backend, "device_name", lambda device: "another GPU")
    with caplog.at_level(logging.WARNING, logger="swapplan"):
        backend_for(plan, GPU)
    assert "this is another GPU" in caplog.messages[-1]
    assert pinned == [(plan.host_pool_bytes, GPU)] * 3
    for one in made:
        assert isinstance(one.d2h, StreamLane)
        assert isinstance(one.h2d, StreamLane)
        assert one.watch is Watch.UNTIL_REPLAYED
        assert one.budget_bytes is None, "the device enforces it"
        assert one.allocated_peak_bytes() == 17
        assert one.streams is cast(StreamDevice, streams)


def test_the_notice_goes_when_results_come() -> None:
    found = list(RESULTS.rglob("training.md")) if RESULTS.is_dir() else []
    assert not found, (
        f"{found[0]} is there: remove NOTICE from runtime/replay/backend.py and from README"
    )
