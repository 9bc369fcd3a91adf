"""DTR, on steps worked out by hand."""

from pathlib import Path

import pytest

from planner.heuristics.recomputing.dtr import DTR, EvictedGroups
from planner.heuristics.reference import Outcome
from planner.heuristics.task import task_of
from profiles.library.index import profile_path
from profiles.schema.profile import OpTrait, Profile
from profiles.schema.profile_file import read_profile
from tests.support.planning.tasks import task
from tests.support.planning.toys import ToyStorage, activation, fixed, resident, toy
from tests.support.recompute.forward_backward import never, two_blocks


def ran(profile: Profile, budget_bytes: int) -> tuple[int, float]:
    """The peak, and the time of what ran again."""
    found = DTR.rule(task(profile, budget_bytes), never)
    assert isinstance(found, Outcome)
    return found.peak_bytes, found.recompute_us


@pytest.mark.parametrize(
    ("budget_bytes", "peak_bytes", "recompute_us"),
    [
        (20, 20, 0),
        # Before op 4, 40 us on, 4 bytes must go. All cost 10 us; x was read 30 us ago, z 10 us.
        (16, 16, 10),
        # And another 4: y has x in its neighbourhood now, so it costs 20 for 2 bytes, 20 us old;
        # z costs 10 for 4 bytes and 10 us.
        (12, 12, 20),
        # Then y, too. z is made from x and y again, and these are there when their turn comes.
        (10, 10, 30),
        # w, which op 4 reads, and what that works with take 10. And x goes again for z to be made.
        (9, 10, 40),
    ],
)
def test_the_least_worth_is_evicted(
    budget_bytes: int, peak_bytes: int, recompute_us: float
) -> None:
    assert ran(two_blocks(), budget_bytes) == (peak_bytes, recompute_us)


def one_storage(*storages: ToyStorage, traits: tuple[OpTrait, ...] = ()) -> Profile:
    """Op 3 needs 9 bytes of work."""
    return toy(*[10] * 6, storages=[*storages, fixed("work", 9, 3)], traits=[traits] * 6)


def written_twice(size_bytes: int) -> ToyStorage:
    """Made by op 0, changed by op 1, read by op 5."""
    plain = activation("x", size_bytes, 0, 1, 5)
    return ToyStorage(**vars(plain) | {"writes": frozenset({0, 1})})


def test_what_was_written_in_place_is_written_again() -> None:
    # Op 1 takes the bytes that op 0 made, both times.
    assert ran(one_storage(written_twice(4)), 9) == (9, 20)


def test_a_reader_of_what_is_overwritten_later_gets_what_it_read() -> None:
    # Op 1 made y from x; op 2 overwrites x. y is made again from x as op 0 made it; x, as op 2 left
    # it, is needed by none.
    plain = activation("x", 4, 0, 1, 2)
    x = ToyStorage(**vars(plain) | {"writes": frozenset({0, 2})})
    assert ran(one_storage(x, activation("y", 4, 1, 5)), 9) == (9, 20)


def test_what_cannot_be_made_again_stays() -> None:
    x = activation("x", 4, 0, 5)
    assert ran(one_storage(x), 9) == (9, 10)
    assert ran(one_storage(x, traits=(OpTrait.COLLECTIVE,)), 9) == (13, 0)
    # Nor what was made from a weight that changes before.
    weight = resident("weight", 1, 0, 2, writes=[2])
    assert ran(one_storage(x, weight), 10) == (14, 0)


def test_groups_of_what_is_evicted() -> None:
    # A chain: 0 - 1 - 2 - 3 - 4.
    groups = EvictedGroups([{1}, {0, 2}, {1, 3}, {2, 4}, {3}], [1.0, 2.0, 4.0, 8.0, 16.0])
    groups.add(1)
    groups.add(3)
    assert [*groups.around_us[[0, 2, 4]]] == [2, 10, 8]
    groups.add(2)
    assert [*groups.around_us[[0, 4]]] == [14, 14]
    groups.remove(2)
    # The two are one group to it still, as in the paper, without what 2 costs.
    assert [*groups.around_us[[0, 2, 4]]] == [10, 10, 10]
    groups.remove(1)
    assert [*groups.around_us[[0, 1, 2, 4]]] == [0, 0, 8, 8]


def test_it_is_given_up_when_there_is_no_time() -> None:
    found = DTR.rule(task(two_blocks(), 12), lambda: True)
    assert isinstance(found, str)
    assert "given up" in found


def test_a_network_s_step() -> None:
    profile = read_profile(profile_path(Path("library:resnet50-v100-16gb")))
    shares = (1.0, 0.7, 0.5)
    found = [DTR.rule(task_of(profile, int(s * profile.peak_bytes)), never) for s in shares]
    outcomes = [one for one in found if isinstance(one, Outcome)]
    assert len(outcomes) == len(shares)
    again_us = [one.recompute_us for one in outcomes]
    assert again_us == sorted(again_us)
    assert again_us[0] == 0
    for share, one in zip(shares, outcomes, strict=True):
        assert one.peak_bytes <= share * profile.peak_bytes
