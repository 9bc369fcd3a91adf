"""Simulated steps, worked out by hand."""

from planner.plan.simulate import Copy, simulate, simulate_plan
from tests.support.planning.actions import action
from tests.support.planning.one_swap import one_swap_plan
from tests.support.planning.toys import toy_link


def test_copies_queue_on_their_lane_and_compute_waits() -> None:
    # Out at anchor 0: storage 0 takes 1 + 6/2 = 4 us, storage 1 behind it 1 + 4/2 = 3, until 7.
    # Anchor 1 comes at 5 and waits 2 for storage 1. Both come back from there: storage 1 first, by
    # the order given, 7 to 7 + 1 + 4/1 = 12, storage 0 to 12 + 1 + 6 = 19. Slot 1 runs from 7 to
    # 17; anchor 2 waits 2.
    words = (("out 0", "out 1"), ("release 0", "release 1", "in 1", "in 0"), ("await 1", "await 0"))
    found = simulate(
        durations_us=[5, 10, 1],
        sizes_bytes={0: 6, 1: 4},
        link=toy_link(2, 1, 1),
        schedule=tuple(tuple(action(word) for word in anchor) for anchor in words),
    )
    assert found.d2h == (Copy(0, 0, 4), Copy(1, 4, 7))
    assert found.h2d == (Copy(1, 7, 12), Copy(0, 12, 19))
    assert found.start_us == (0, 7, 19)
    assert found.stall_us == (0, 2, 2)
    assert (found.total_stall_us, found.step_us) == (4, 20)


def test_a_plan_simulates_alone() -> None:
    plan = one_swap_plan()
    timeline = simulate_plan(plan)
    assert timeline.d2h == (Copy(0, 10, 16),)
    assert timeline.h2d == (Copy(0, 30, 36),)
    assert (timeline.total_stall_us, timeline.step_us) == (0, 50)
