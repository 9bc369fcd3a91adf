"""SuperNeurons with its cheap layers, worked out by hand."""

from planner.heuristics.recomputing.choice import Choice
from planner.heuristics.recomputing.superneurons import SUPERNEURONS_RECOMPUTE
from tests.planner.heuristics.recomputing.test_catalog import checked
from tests.support.planning.toys import activation
from tests.support.recompute.forward_backward import CHEAP, MM, asked, never, step


def planned(*sizes_bytes: int) -> Choice:
    """A product makes x, and three cheap ops make p from it, q from p and r from q."""
    x, p, q, r = sizes_bytes
    storages = [
        activation("x", x, 0, 1, 7, released_op=7),
        activation("p", p, 1, 2, 7),
        activation("q", q, 2, 3, 6),
        activation("r", r, 3, 5),
    ]
    profile = step(storages, "abcd", (MM, CHEAP, CHEAP, CHEAP))
    return checked(SUPERNEURONS_RECOMPUTE.rule(asked(profile, 100), never))


def test_a_segment_is_recomputed_at_once_where_memory_allows() -> None:
    # Its three results take 6 bytes, the largest layer (op 1) 12: at slot 5 ops 1 to 3 run again.
    choice = planned(10, 2, 2, 2)
    assert {gap.name for gap in choice.dropped} == {"p", "q", "r"}
    assert choice.recompute_us == 30
    assert [rebuilding.recipe.slot for rebuilding in choice.found] == [5]


def test_else_each_is_recomputed_from_the_checkpoint() -> None:
    # They take 12 bytes, the largest layer 8 (9 in op 4): r takes ops 1 to 3, q two, p one.
    choice = planned(1, 4, 4, 4)
    assert choice.recompute_us == 60
    assert [rebuilding.recipe.slot for rebuilding in choice.found] == [5, 6, 7]
