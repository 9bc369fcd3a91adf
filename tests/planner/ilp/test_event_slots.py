"""The slots that are counted, and the least that must be away in each."""

from planner.ilp.event_slots import KeptSlots, least_away_bytes, least_sum_bytes
from tests.support.planning.one_swap import one_swap, problem_of
from tests.support.planning.toys import activation, toy


def test_the_least_bytes_away_are_a_sum_of_whole_storages() -> None:
    assert least_sum_bytes([6, 10, 10], 7) == 10
    assert least_sum_bytes([6, 10, 10], 11) == 16
    assert least_sum_bytes([6, 10, 10], 26) == 26
    assert least_sum_bytes([6, 10, 10], 0) == 0
    # Nothing can help such a slot: what it is over stands.
    assert least_sum_bytes([6], 7) == 7


def test_rounding_sizes_to_steps_only_ever_lowers_the_sum() -> None:
    sizes = [10**9 + 1, 10**9 + 7, 3 * 10**8 + 1]
    # The third alone falls just short, so either of the others must go.
    found = least_sum_bytes(sizes, 3 * 10**8 + 10**6)
    assert 0.999 * 10**9 < found <= 10**9 + 1


def test_what_must_be_away_by_slot() -> None:
    # Only slot 2 is over the budget of 10, by 2; x is all that is open there, so its 6 must go.
    assert least_away_bytes(problem_of(one_swap(), 10), range(6)) == (0, 0, 6, 0, 0, 0)


def test_a_thinned_choice_keeps_more_slots_where_more_bytes_begin_or_end() -> None:
    # Storages of 1 byte begin to idle in slots 1 to 4, of 100 in 5 to 7; all are used in slot 9.
    small = [activation(f"pack:{n}", 1, n, 9) for n in range(4)]
    large = [activation(f"pack:{n}", 100, n, 9) for n in range(4, 7)]
    problem = problem_of(toy(*[1] * 10, storages=[*small, *large]), 10**6)
    every = KeptSlots(problem, tuple(range(11)))
    # 608 bytes begin or end, in runs of 121.6: slot 0, 1 to 5, 6, 7 and 8, 9 and 10. The last and
    # the first of the fullest of each are kept.
    assert every.thinned(10).slots == (0, 5, 6, 7, 8, 9, 10)
    assert every.thinned(11) is every
