"""What comes next in a rhythm: as a reader would say, and checked against a search by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.hooks.rhythm import MOST_PERIOD, Rhythm


def after(past: str) -> str:
    rhythm = Rhythm()
    for what in past:
        rhythm.add(what)
    return rhythm.next()


@pytest.mark.parametrize(
    ("past", "following"),
    [
        ("", ""),
        ("a", ""),
        ("aa", ""),
        ("aaa", "a"),
        ("ab", ""),
        ("abab", "a"),
        ("ababa", "b"),
        ("aabaab", "a"),
        ("aabaabaa", "b"),
        # Once around is not enough to know that a "b" follows.
        ("aabaa", ""),
        ("aaabaaa", "a"),
        # What went before another rhythm began says nothing.
        ("aaaaaaababab", "a"),
        ("abababababaaa", "a"),
        # An odd one out breaks it, until it has come around again.
        ("ababacab", ""),
        ("ababacabab", "a"),
        ("abcd" * 2, "a"),
    ],
)
def test_what_comes_next(past: str, following: str) -> None:
    assert after(past) == following


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=MOST_PERIOD),
    st.integers(0, MOST_PERIOD - 1),
    st.lists(st.sampled_from("abc"), max_size=20),
)
def test_a_rhythm_is_heard_after_three_periods_whatever_went_before(
    turns: list[str], more: int, before: list[str]
) -> None:
    played = turns * 3 + turns[: more % len(turns)]
    following = turns[more % len(turns)]
    assert after("".join(before + played)) == following


def test_longer_ones_are_not_waited_for() -> None:
    turns = "a" * MOST_PERIOD + "b"
    assert after(turns * 4) in ("", "a")
