"""POFO, on chains worked out by hand."""

import itertools

import pytest

from planner.heuristics.recomputing.choice import Choice
from planner.heuristics.recomputing.pofo import POFO
from planner.heuristics.recomputing.pofo_chain import Chain, Solution
from planner.heuristics.recomputing.rotor import MEMORY_STEPS, Rotor, Stage
from profiles.schema.profile import Link
from tests.planner.heuristics.recomputing.test_catalog import checked
from tests.support.planning.toys import SLOW, activation, toy_link
from tests.support.recompute.forward_backward import asked, never, step, two_blocks

EQUAL = Stage(
    forward_us=10,
    backward_us=10,
    input_bytes=1,
    saved_input_bytes=1,
    saved_bytes=4,
    # What enters it, what it saves and what leaves it; backward has a gradient besides.
    forward_bytes=6,
    backward_bytes=7,
)


def solved(budget_bytes: int, rate: float, stages: int = 3) -> Solution | None:
    # The table's steps are exact: one is a tenth of a byte, for all of these budgets.
    rotor = Rotor((EQUAL,) * stages, MEMORY_STEPS // 10)
    return Chain(rotor, budget_bytes, rate, rate).solution(never)


def decisions(solution: Solution | None) -> list[tuple[int, int, bool, bool]]:
    assert solution is not None
    return [stretch[:4] for stretch in solution.stretches]


def test_a_chain_that_fits_is_left_alone() -> None:
    # Before the last backward, with 7, the first two stages keep 5 bytes each.
    solution = solved(17, 1e-9)
    assert decisions(solution) == [(n, n, False, False) for n in range(3)]
    assert solution is not None
    assert solution.us == 60


def test_without_a_link_the_cheapest_stretch_runs_again() -> None:
    # With 16 either of the first two stages saves 4 bytes if it runs again, which takes 10 us. In
    # backward of the last one there are then 5 + 1 + 7, or 1 + 5 + 7.
    assert solved(16, 1e-9) is not None
    for budget_bytes in (16, 13):
        solution = solved(budget_bytes, 1e-9)
        assert solution is not None
        assert solution.us == 70
        assert sorted(one.runs_again for one in solution.stretches) == [False, False, True]


def test_the_least_memory_runs_stages_again_several_times() -> None:
    # What enters the chain is kept, 1 byte; backward of the last stage needs the other 7. For that
    # of the second one the first two run again, and for that of the first one it alone once more.
    solution = solved(8, 1e-9)
    assert decisions(solution) == [(0, 1, True, False), (2, 2, False, False)]
    assert solution is not None
    assert solution.us == 60 + 20 + 10
    assert solved(6, 1e-9) is None


def test_what_hides_is_offloaded_instead() -> None:
    # With 16 what the first stage saved, 4 bytes, and what it made, 1, leave during forward of the
    # second, at half a byte a us, and are back before backward of the second.
    solution = solved(16, 0.5)
    assert solution is not None
    assert solution.us == 60
    assert not any(one.runs_again for one in solution.stretches)
    assert any(one.offloads for one in solution.stretches)


@pytest.mark.parametrize(("rate", "extra_us"), [(1.0, 4), (0.5, 8), (0.1, 10), (1e-9, 20)])
def test_idle_time_is_weighed_against_running_again(rate: float, extra_us: float) -> None:
    # With 12, all that the first stage saved and made, 5 bytes, is to be back by the end of
    # backward of the last one. That one needs 7, and 4 that the second one saved: 4 too many. So
    # compute is idle until they are fetched, unless running the second stage again is faster. With
    # no link at all both of the first two run again.
    solution = solved(12, rate)
    assert solution is not None
    assert solution.us == 60 + extra_us


def brute_force_us(stages: int, budget_bytes: int) -> float:
    """Without a link: every way to cut a chain, and rotor's recursion without a table."""

    def again_us(first: int, last: int, room: int) -> float:
        if room < EQUAL.backward_bytes:
            return float("inf")
        if first == last:
            return 20
        ways = [20 + again_us(first + 1, last, room - 5)]
        for cut in range(first + 1, last + 1):
            right = again_us(cut, last, room - 1)
            ways.append(10 * (cut - first) + right + again_us(first, cut - 1, room))
        return min(ways)

    best = float("inf")
    for kinds in itertools.product([0, 1, 2], repeat=stages):
        # 0 saves, 1 begins a stretch, 2 goes on with one.
        us, kept, first, before = 0.0, 0, 0, 0
        while first < stages and us < float("inf"):
            room = budget_bytes - kept - before
            if kinds[first] == 0:
                us += 20 if room >= 7 else float("inf")
                kept, before, first = kept + 1 + before, 4, first + 1
                continue
            last = first
            while last + 1 < stages and kinds[last + 1] == 2:
                last += 1
            needed = 7 if last > first else 6
            fits = kinds[first] == 1 and room >= needed
            us += 10 * (last - first + 1) + again_us(first, last, room) if fits else float("inf")
            kept, before, first = kept + 1 + before, 0, last + 1
        best = min(best, us)
    return best


@pytest.mark.parametrize("budget_bytes", range(7, 26))
def test_the_table_finds_what_trying_everything_finds(budget_bytes: int) -> None:
    solution = solved(budget_bytes, 1e-9, stages=4)
    found_us = float("inf") if solution is None else solution.us
    assert found_us == brute_force_us(4, budget_bytes)


def planned(budget_bytes: int, link: Link) -> Choice:
    return checked(POFO.rule(asked(two_blocks(link), budget_bytes), never))


def test_a_step_that_fits_is_left_alone() -> None:
    choice = planned(20, toy_link())
    assert (choice.dropped, choice.swaps) == (frozenset(), ())


def test_a_step_s_blocks_run_again() -> None:
    # What block a saves, x, is there in backward of b, says POFO: so it does not help to offload.
    for link in (toy_link(), SLOW):
        choice = planned(16, link)
        assert {gap.name for gap in choice.dropped} == {"x"}
        assert (choice.swaps, choice.peak_bytes, choice.step_us) == ((), 16, 90)


def test_what_enters_a_block_is_offloaded() -> None:
    # In blocks of one op x enters b. It leaves in slot 2, when b has read it, for 4 us, and is back
    # for backward of b, slot 7; with 16, y, which enters c, may stay or go.
    storages = [
        activation("x", 4, 0, 1, 7),
        activation("y", 2, 1, 2, 6),
        activation("z", 4, 2, 3, 5),
        activation("w", 1, 3, 4),
    ]
    choice = checked(POFO.rule(asked(step(storages, "abcd"), 16), never))
    first = choice.swaps[0]
    assert (first.swap_out_slot, first.release_slot, first.swap_in_slot) == (2, 3, 6)
    assert (choice.dropped, choice.step_us) == (frozenset(), 80)
    assert choice.peak_bytes <= 16


def test_a_budget_that_is_not_met_is_missed_by_as_little_as_can_be() -> None:
    choice = planned(3, toy_link())
    assert 3 < choice.peak_bytes < 20
