"""Adam on the host, on a step worked out by hand."""

from collections.abc import Iterator

import pytest

from planner.heuristics.host_adam import HOST_ADAM, MEMORY_BYTES_PER_US, host_bytes_per_us
from planner.heuristics.reference import Outcome
from planner.heuristics.task import task_of
from profiles.hardware.links import link_named
from profiles.schema.profile import OPTIMIZER_POST, OPTIMIZER_PRE, Link, Profile, StorageKind
from tests.support.planning.toys import ToyStorage, gradient, resident, toy, toy_link
from tests.support.recompute.forward_backward import never

ZERO_OFFLOAD, TORCHAO, TORCHAO_FREEING = HOST_ADAM
MB = 1_000_000
ADAM_US = 7 * MB / MEMORY_BYTES_PER_US
"""For a parameter of a megabyte: its gradient and it are read, two states, and all but one written,
at the rate that is assumed for the host of a link that the table does not know."""


def storages() -> Iterator[ToyStorage]:
    """Weights a and b; slot 2 makes b's gradient, slot 3 a's, slot 4 updates both."""
    for name, made in (("b", 2), ("a", 3)):
        yield resident(f"parameter:{name}", MB, 0, made, 4, writes=[4])
        yield gradient(f"grad:{name}", MB, made, 4)
        for state in ("exp_avg", "exp_avg_sq"):
            kind = StorageKind.OPTIMIZER_STATE
            yield resident(f"state:{name}.{state}", MB, 4, kind=kind, writes=[4])


def step(made: Iterator[ToyStorage], link: Link | None = None) -> Profile:
    plain = toy(10, 10, 100, 100, 50, storages=[*made], link=link)
    anchors = {4: OPTIMIZER_PRE, 5: OPTIMIZER_POST}
    slots = (
        slot.model_copy(update={"anchor": anchors.get(t, slot.anchor)})
        for t, slot in enumerate(plain.slots)
    )
    return plain.model_copy(update={"slots": tuple(slots)})


def outcomes(profile: Profile) -> list[Outcome]:
    found = [one.rule(task_of(profile, profile.peak_bytes), never) for one in HOST_ADAM]
    assert all(isinstance(one, Outcome) for one in found)
    return [one for one in found if isinstance(one, Outcome)]


FAST = toy_link(MB / 40, MB / 40)
"""A megabyte takes 40 us."""


def test_the_optimizer_s_ops_are_gone_and_the_rest_is_waited_for() -> None:
    # b's gradient is there 40 us into slot 3, a's 40 us after backward. ZeRO-Offload updates both
    # then, and b, the first one, is on its way back when a is updated: each copy takes 40 us.
    zero, torchao, freeing = outcomes(step(storages(), FAST))
    assert {one.compute_us for one in (zero, torchao, freeing)} == {220}
    assert ADAM_US < 40
    assert zero.stall_us == pytest.approx(40 + ADAM_US + 80)
    # torchao has updated b by the end of backward, but copies it back when a's gradient has left.
    assert torchao.stall_us == freeing.stall_us == pytest.approx(40 + 80)
    assert zero.moved_bytes == 2 * MB


def test_states_are_never_there_and_gradients_go_where_they_are_freed() -> None:
    # Two weights and both gradients, until b's has left: that is before slot 4 and after slot 3
    # began, so both are there in slot 3, and a's alone when slot 4 begins.
    zero, torchao, freeing = outcomes(step(storages(), FAST))
    assert zero.peak_bytes == torchao.peak_bytes == freeing.peak_bytes == 4 * MB
    # At ten times the rate b's has left before slot 3 is over, but not when it begins.
    in_time = step(storages(), toy_link(MB, MB))
    assert [one.peak_bytes for one in outcomes(in_time)] == [4 * MB] * 3


def test_a_gradient_that_has_left_makes_room_for_the_next() -> None:
    late = toy(10, 10, 100, 100, 100, 50, storages=[*spread()], link=FAST)
    anchors = {5: OPTIMIZER_PRE, 6: OPTIMIZER_POST}
    slots = (
        slot.model_copy(update={"anchor": anchors.get(t, slot.anchor)})
        for t, slot in enumerate(late.slots)
    )
    profile = late.model_copy(update={"slots": tuple(slots)})
    # In slot 4 the gradient of slot 2 has left.
    assert [one.peak_bytes for one in outcomes(profile)] == [3 * MB, 4 * MB, 3 * MB]


def spread() -> Iterator[ToyStorage]:
    """As `storages`, with a slot between the gradients."""
    for name, made in (("b", 2), ("a", 4)):
        yield resident(f"parameter:{name}", MB, 0, made, 5, writes=[5])
        yield gradient(f"grad:{name}", MB, made, 5)
        for state in ("exp_avg", "exp_avg_sq"):
            kind = StorageKind.OPTIMIZER_STATE
            yield resident(f"state:{name}.{state}", MB, 5, kind=kind, writes=[5])


def test_other_optimizers_are_not_for_it() -> None:
    momentum = (s for s in storages() if not s.name.endswith("_sq"))
    profile = step(momentum)
    for one in HOST_ADAM:
        found = one.rule(task_of(profile, profile.peak_bytes), never)
        assert found == "its optimizer keeps no two states as Adam does, or updates during backward"
    plain = toy(10, 10, 100, 100, 50, storages=[*storages()])
    found = ZERO_OFFLOAD.rule(task_of(plain, plain.peak_bytes), never)
    assert found == "the step has no optimizer step of its own"


def test_the_host_s_rate_is_stated() -> None:
    assert host_bytes_per_us(link_named("pcie3-x16")) == 76_800
    assert host_bytes_per_us(FAST) == MEMORY_BYTES_PER_US
    zero, *_ = outcomes(step(storages(), FAST))
    assert zero.assumed == "estimated: Adam on the host at 204.80 GB/s"
