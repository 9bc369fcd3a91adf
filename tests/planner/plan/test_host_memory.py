"""Where bytes wait on the host."""

from planner.plan.host_memory import HostNeed, host_offsets, peak_need_bytes, pool_bytes


def test_host_bytes_are_shared_by_those_that_do_not_meet() -> None:
    # The first two meet at slot 3, where the second is issued before the first is awaited.
    needs = [HostNeed(0, 3, 5), HostNeed(3, 6, 5), HostNeed(4, 9, 5)]
    offsets = host_offsets(needs)
    assert offsets[0] != offsets[1]
    assert offsets[1] != offsets[2]
    assert pool_bytes(needs, offsets) == peak_need_bytes(needs) == 10


def test_a_hole_in_the_pool_is_used_if_it_is_large_enough() -> None:
    needs = [HostNeed(0, 1, 4), HostNeed(0, 9, 4), HostNeed(2, 9, 3), HostNeed(2, 9, 5)]
    offsets = host_offsets(needs)
    assert pool_bytes(needs, offsets) == 12
    assert peak_need_bytes(needs) == 12
    assert host_offsets([]) == ()
