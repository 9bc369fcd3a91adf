"""What lanes answer of a copy, on steps worked out by hand."""

import random

import pytest

from planner.plan.lanes import Direction, JointLanes, LaneLoad, lanes_of
from tests.support.planning.toys import toy_link


@pytest.mark.parametrize(("both_bytes_per_us", "ends_us"), [(None, 10.0), (1.0, 15.0)])
def test_a_copy_has_ended_when_it_ends(both_bytes_per_us: float | None, ends_us: float) -> None:
    # 10 us of bytes out meet 5 us of bytes back, which halve each other where the lanes share.
    link = toy_link(1, 1).model_copy(update={"both_bytes_per_us": both_bytes_per_us})
    lanes = lanes_of(link)
    lanes.arrive(0.0)
    lanes.issue(Direction.D2H, 0, LaneLoad(0.0, 10.0), 0.0)
    lanes.issue(Direction.H2D, 1, LaneLoad(0.0, 5.0), 0.0)
    assert lanes.has_ended(Direction.H2D, 0, 1.0), "what was never issued has ended"
    assert not lanes.has_ended(Direction.D2H, 0, 1.0)
    assert lanes.end_us(Direction.D2H, 0, 2.0) == ends_us
    assert not lanes.has_ended(Direction.D2H, 0, ends_us - 1)
    assert lanes.has_ended(Direction.D2H, 0, ends_us)


@pytest.mark.parametrize("seed", range(30))
def test_ends_are_foreseen_as_they_come(seed: int) -> None:
    # What is known after each copy is what comes if it is the last, whatever was known before.
    chance = random.Random(seed)
    at_us = 0.0
    issued: list[tuple[float, Direction, LaneLoad]] = []
    lanes = JointLanes(chance.choice((0.5, 0.7, 0.9)))
    for key in range(40):
        at_us += chance.choice((0.0, 0.0, 1.0, 6.0, 20.0))
        load = LaneLoad(chance.choice((0.0, 0.5)), chance.choice((0.0, 1.0, 4.0, 9.5)))
        issued.append((at_us, chance.choice(tuple(Direction)), load))
        lanes.issue(issued[-1][1], key, load, at_us)
        lanes.foresee()
        others = JointLanes(lanes._queues.share)
        for n, (other_us, direction, other) in enumerate(issued):
            others.issue(direction, n, other, other_us)
        others.finish()
        for one, other_lane in ((lanes.d2h, others.d2h), (lanes.h2d, others.h2d)):
            assert one.ends_us == pytest.approx(other_lane.ends_us)
            assert one.free_us == pytest.approx(other_lane.free_us)
