"""What lanes answer of a copy, on steps worked out by hand."""

import pytest

from planner.plan.lanes import Direction, LaneLoad, lanes_of
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
