"""What holds of every measured step, on any device and however long it takes."""

from itertools import pairwise

from planner.plan.plan import Plan
from planner.plan.schedule import ActionKind, lower
from planner.plan.simulate import Timeline

TRIPS = ((ActionKind.SWAP_OUT, ActionKind.RELEASE), (ActionKind.SWAP_IN, ActionKind.AWAIT))
"""What issues a copy, and what waits for it."""


def assert_all_is_there(plan: Plan, timeline: Timeline) -> None:
    """It has every anchor and every copy of the plan."""
    assert len(timeline.start_us) == len(timeline.stall_us) == len(plan.slots)
    assert [copy.storage for copy in timeline.d2h] == _moved(plan, ActionKind.SWAP_OUT)
    assert [copy.storage for copy in timeline.h2d] == _moved(plan, ActionKind.SWAP_IN)


def assert_time_goes_on(timeline: Timeline) -> None:
    """Anchors come in order, and so do the copies of a lane, which are one at a time."""
    assert list(timeline.start_us) == sorted(timeline.start_us)
    assert timeline.step_us == timeline.start_us[-1]
    assert all(stall_us >= 0 for stall_us in timeline.stall_us)
    assert timeline.total_stall_us == sum(timeline.stall_us) <= timeline.step_us
    for lane in (timeline.d2h, timeline.h2d):
        assert all(0 <= copy.start_us <= copy.end_us for copy in lane)
        assert all(one.end_us <= other.start_us for one, other in pairwise(lane))


def assert_copies_keep_to_their_trips(plan: Plan, timeline: Timeline) -> None:
    """Compute gets to a trip's first anchor before its copy begins, and leaves its last anchor when
    the copy has ended."""
    slot_of = {
        (action.kind, action.storage): slot
        for slot, row in enumerate(lower(plan))
        for action in row
    }
    for issue, wait in TRIPS:
        moved = _moved(plan, issue)
        once = {storage for storage in moved if moved.count(storage) == 1}
        within = [s for s in once if slot_of[issue, s] <= slot_of[wait, s]]
        assert within
        lane = timeline.d2h if issue is ActionKind.SWAP_OUT else timeline.h2d
        for copy in (copy for copy in lane if copy.storage in within):
            first, last = slot_of[issue, copy.storage], slot_of[wait, copy.storage]
            assert timeline.start_us[first] - timeline.stall_us[first] <= copy.start_us
            assert copy.end_us <= timeline.start_us[last]


def _moved(plan: Plan, kind: ActionKind) -> list[int]:
    return [action.storage for row in lower(plan) for action in row if action.kind is kind]
