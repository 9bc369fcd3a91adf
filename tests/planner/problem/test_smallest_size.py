"""What stays by default is small, and its sum is too."""

import pytest
from hypothesis import given, settings

from planner.plan.plan import Boundary
from planner.problem.gaps import Gap
from planner.problem.problem import Problem, problem_of
from planner.problem.settings import SETTINGS
from planner.problem.smallest_size import (
    default_min_size_bytes,
    left_out_bytes,
    most_min_size_bytes,
)
from profiles import Profile
from tests.support.planning.strategies import jobs

Job = tuple[Profile, int]
SHARE = SETTINGS.left_out_share


@pytest.mark.parametrize(("peak_bytes", "smallest"), [(10, 1), (5_000, 5), (10**9, 10**6)])
def test_no_storage_of_a_thousandth_of_the_peak_stays(peak_bytes: int, smallest: int) -> None:
    assert most_min_size_bytes(peak_bytes) == smallest
    assert default_min_size_bytes((), (peak_bytes, 1), peak_bytes) == smallest


def test_many_small_ones_are_not_left_out() -> None:
    # Of 100,000 bytes 1/1000 is 100. Ten of 60 bytes idle in slot 1 are 600 of a budget of 50,000,
    # more than 1%; those of 40 bytes are 400 with the two that wrap. In slot 2 everything fits.
    gaps = [
        *(Gap(n, f"s{n}", 60, 1, 2) for n in range(10)),
        *(Gap(n, f"t{n}", 40, 0, 2) for n in range(10, 18)),
        *(Gap(n, f"w{n}", 40, 2, 5) for n in range(18, 20)),
        *(Gap(n, f"f{n}", 20, 2, 3) for n in range(20, 99)),
        Gap(99, "large", 60_000, 0, 2),
    ]
    assert default_min_size_bytes(gaps, (100_000, 100_000, 40_000), 50_000) == 60
    # Half the budget, of which 400 are more than 1%, if that could be met.
    assert default_min_size_bytes(gaps, (80_000, 80_000, 20_000), 25_000) == 40
    # Without those of 40 bytes it could not.
    assert default_min_size_bytes(gaps, (100_000, 100_000, 30_000), 39_600) == 40
    assert default_min_size_bytes(gaps, (100_000, 100_000, 30_000), 39_599) == 1
    # What the sentence of plan solve says: of slots 0 and 1, which do not fit.
    assert left_out_bytes(gaps, (100_000, 100_000, 40_000), 50_000, 60) == 10 * 40
    assert left_out_bytes(gaps, (100_000, 100_000, 40_000), 50_000, 61) == 10 * 40 + 10 * 60
    assert left_out_bytes(gaps, (100_000, 100_000, 40_000), 100_000, 61) == 0


def asked(job: Job, min_size_bytes: int | None, boundary: Boundary) -> Problem:
    profile, budget_bytes = job
    return problem_of(
        profile,
        budget_bytes=budget_bytes,
        link=profile.link,
        min_size_bytes=min_size_bytes,
        boundary=boundary,
        every_gap=True,
    )


@given(jobs())
@settings(max_examples=200)
def test_little_is_left_out(job: Job) -> None:
    for boundary in Boundary:
        found, whole = asked(job, None, boundary), asked(job, 1, boundary)
        most = most_min_size_bytes(max(whole.resident_bytes))
        sizes = {1, most, *(gap.size_bytes for gap in whole.whole_gaps if gap.size_bytes < most)}

        def holds(size_bytes: int, whole: Problem = whole) -> bool:
            small = [g for g in whole.whole_gaps if g.size_bytes < size_bytes]
            large = [i for i, g in enumerate(whole.whole_gaps) if g.size_bytes >= size_bytes]
            left_out = [
                sum(
                    gap.size_bytes
                    for gap in small
                    if any(
                        t in range(*part.indices(whole.slot_count))
                        for part in whole.open_slices(gap)
                    )
                )
                for t in range(whole.slot_count)
                if whole.resident_bytes[t] > whole.budget_bytes
            ]
            return max(left_out, default=0) < SHARE * whole.budget_bytes and whole.fits(large)

        if whole.fits(whole.whole_set):
            assert found.fits(found.whole_set)
            assert found.min_size_bytes == max(size for size in sizes if holds(size))
        else:
            assert found.min_size_bytes == 1
