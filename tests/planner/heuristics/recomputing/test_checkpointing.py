"""Checkpointing, on steps worked out by hand."""

from planner.heuristics.recomputing.checkpointing import (
    FEWEST,
    FULL,
    MEGATRON_SELECTIVE,
    TORCHTITAN_SELECTIVE,
    TORCHTUNE_CHECKPOINTS,
    TRL_SELECTIVE,
    UNSLOTH,
)
from planner.heuristics.recomputing.choice import Choice, Recomputing
from profiles.schema.profile import Profile
from tests.planner.heuristics.recomputing.test_catalog import checked
from tests.support.planning.toys import activation, fixed
from tests.support.recompute.forward_backward import (
    BMM,
    CHEAP,
    MM,
    SOFTMAX,
    asked,
    never,
    step,
    two_blocks,
)


def planned(baseline: Recomputing, profile: Profile, budget_bytes: int = 20) -> Choice:
    return checked(baseline.rule(asked(profile, budget_bytes), never))


def figures(choice: Choice) -> tuple[set[str], int, float]:
    return {gap.name for gap in choice.dropped}, choice.peak_bytes, choice.recompute_us


def test_every_block_runs_again() -> None:
    # y enters b, so it stays. x is gone from slot 2 to 7, z in slot 4: 20 - 8 bytes. z is made from
    # y by op 2, x by op 0.
    assert figures(planned(FULL, two_blocks())) == ({"x", "z"}, 12, 20)


def test_as_few_blocks_as_fit_run_again() -> None:
    assert figures(planned(FEWEST, two_blocks(), 16)) == ({"x"}, 16, 10)
    assert figures(planned(FEWEST, two_blocks(), 15)) == ({"x", "z"}, 12, 20)


def test_what_enters_a_block_is_held_for_it() -> None:
    # Block e makes t, which only block a reads in forward: checkpointing holds on to it until a
    # runs again, so that e does not. In slot 4 it stands in for x: 3 + 2 + 1 + 9.
    storages = [
        fixed("t", 3, 0, 1),
        activation("x", 5, 1, 2, 6),
        activation("y", 2, 2, 3, 5),
        activation("w", 1, 3, 4),
    ]
    choice = planned(FULL, step(storages, "eaab"))
    assert figures(choice) == ({"x"}, 15, 10)


def one_block(*names: str) -> Profile:
    """Op 0 makes x, op 1 from it p, op 2 from it y, which op 3 reads in another block."""
    storages = [
        activation("x", 4, 0, 1, 7),
        activation("p", 4, 1, 2, 6),
        activation("y", 2, 2, 3, 5),
        activation("w", 1, 3, 4),
    ]
    return step(storages, "aaab", names)


def test_torchtitan_keeps_every_second_product() -> None:
    # The first product, x, stays; the second one, p, is made from it again.
    profile = one_block(MM, MM, CHEAP, CHEAP)
    assert figures(planned(TORCHTITAN_SELECTIVE, profile)) == ({"p"}, 16, 10)


def test_trl_keeps_attention_alone() -> None:
    profile = one_block(MM, MM, CHEAP, CHEAP)
    assert figures(planned(TRL_SELECTIVE, profile)) == ({"x", "p"}, 12, 20)
    attention = "aten._scaled_dot_product_flash_attention.default"
    profile = one_block(MM, attention, CHEAP, CHEAP)
    assert figures(planned(TRL_SELECTIVE, profile)) == ({"x"}, 16, 10)


def test_megatron_runs_the_core_of_attention_again() -> None:
    # The core lies between two products: op 1 makes p in it, op 2 reads it there. What it makes for
    # the projection out, y, stays.
    profile = one_block(MM, SOFTMAX, BMM, MM)
    assert figures(planned(MEGATRON_SELECTIVE, profile)) == ({"p"}, 16, 10)
    without = one_block(MM, CHEAP, CHEAP, MM)
    assert figures(planned(MEGATRON_SELECTIVE, without)) == (set(), 20, 0)


def test_what_enters_blocks_is_offloaded_on_the_compute_stream() -> None:
    # y leaves in slot 3 and is back for block b in slot 5: 2 us each way, and 2 bytes less in 4.
    choice = planned(UNSLOTH, two_blocks())
    assert figures(choice) == ({"x", "z"}, 10, 20)
    assert choice.stall_us == 4
    assert len(choice.swaps) == 1


def test_torchtune_s_stash_keeps_the_last_five() -> None:
    choice = planned(TORCHTUNE_CHECKPOINTS, two_blocks())
    assert figures(choice) == ({"x", "z"}, 12, 20)
    assert choice.swaps == ()


def test_ops_that_may_not_run_twice_leave_their_block_as_it_is() -> None:
    plain = two_blocks()
    ops = [
        op.model_copy(update={"traits": None if k == 2 else ()}) for k, op in enumerate(plain.ops)
    ]
    choice = planned(FULL, plain.model_copy(update={"ops": tuple(ops)}))
    assert figures(choice) == ({"x"}, 16, 10)
