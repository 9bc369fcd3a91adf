"""A step whose sizes change from step to step is refused while it is recorded."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn

from profiles.hooks.workload import Workload
from profiles.recording.record import record
from profiles.recording.shapes_seen import ShapesSeen, check_same_sizes
from profiles.schema.errors import WorkloadError
from runtime.beyond_capacity.record import record_beyond_capacity
from tests.support.training.fixed_times import FAST_LINK, UNNAMED

WIDTH = 8


def stepping(rows_of: Callable[[int], torch.Tensor]) -> Workload:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = 0

    def step() -> torch.Tensor:
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = model(rows_of(calls)).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def lengths(call: int) -> torch.Tensor:
    return torch.ones(32 + 16 * (call % 4), WIDTH)


def test_varying_lengths_are_refused_with_what_to_do() -> None:
    with pytest.raises(WorkloadError) as told:
        record(stepping(lengths), source=UNNAMED, link=FAST_LINK, timed_steps=1)
    assert re.search(
        r"the saved tensor pack:0 had [\d,]+ bytes \(\d+x8\) in one step and [\d,]+ bytes "
        r"\(\d+x8\) in another.*pad batches to one length.*buckets",
        str(told.value),
    )
    assert "\n" not in str(told.value)


def test_so_are_they_beyond_capacity() -> None:
    with pytest.raises(WorkloadError, match="takes another size each time"):
        record_beyond_capacity(
            stepping(lengths), source=UNNAMED, link=FAST_LINK, limit_bytes=1 << 20, timed_steps=2
        )


def test_one_longer_step_among_the_timed_ones_is_enough() -> None:
    class Listener:
        def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
            pass

    one, other = ShapesSeen(Listener()), ShapesSeen(Listener())
    for seen, rows in ((one, 2), (other, 3)):
        seen.on_anchor("begin", None)
        seen.on_anchor("pack:0", torch.ones(4))
        seen.on_anchor("pack:1", torch.ones(rows, 1000))
    check_same_sizes(one, one)
    with pytest.raises(WorkloadError, match=r"pack:1 had 8,000 bytes \(2x1000\) .* 12,000 bytes"):
        check_same_sizes(one, other)


def test_the_same_bytes_in_another_shape_are_taken() -> None:
    def turned(call: int) -> torch.Tensor:
        return torch.ones(2, 4, WIDTH) if call % 2 else torch.ones(4, 2, WIDTH)

    profile = record(stepping(turned), source=UNNAMED, link=FAST_LINK, timed_steps=2)
    assert profile.timed_steps == 2


def test_a_shorter_step_while_warming_up_is_taken() -> None:
    profile = record(
        stepping(lambda call: torch.ones(4 if call == 1 else 8, WIDTH)),
        source=UNNAMED,
        link=FAST_LINK,
        timed_steps=1,
    )
    assert profile.warmup_steps >= 2
