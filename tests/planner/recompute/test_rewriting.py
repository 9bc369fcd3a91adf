"""The step that rebuilds what it drops, against one that is played op by op over symbols."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.recompute.recipes import StepEffects
from planner.recompute.rewriting import Rebuilding, RecomputedStep, recomputed
from profiles import Profile
from profiles.schema.checks import first_fault
from profiles.schema.memory import Moment, bytes_at, lifetime, ops_of_slots, slot_memory
from profiles.schema.profile import CPU, Access, StorageKind
from tests.support.recompute.drops import network_step, offered_gaps, random_drops, rebuilt
from tests.support.recompute.op_steps import op_step, op_steps
from tests.support.recompute.replayed import Replay, check_replay

many = settings(max_examples=400)
seeds = st.integers(0, 2**16)


@given(op_steps, seeds)
@many
def test_every_op_reads_what_it_read(profile: Profile, seed: int) -> None:
    """Of the recorded step; of what is run again, only what fills the right bytes is right."""
    check_rewritten(profile, *random_drops(profile, random.Random(seed)))


def check_rewritten(
    profile: Profile, effects: StepEffects, found: tuple[Rebuilding, ...]
) -> RecomputedStep:
    step = recomputed(effects, found)
    replayed = check_replay(profile, step.rebuilds)
    check_lives(step, replayed)
    check_memory(profile, step, replayed, rounding_bytes(profile, found))
    check_times(profile, step)
    assert first_fault(step.profile) is None
    return step


def check_lives(step: RecomputedStep, replayed: Replay) -> None:
    """The storages are those that the replay has seen, each where it was there and was used."""
    ops = len(step.profile.ops)
    expected = [
        (
            origin,
            s.size_bytes,
            list(range(lifetime(s, ops)[0], lifetime(s, ops)[1] + 1)),
            list(range(s.allocated_slot, s.released_slot + 1)),
            [(use.op, use.access) for use in s.uses],
            list(s.touches),
        )
        for origin, s in zip(step.origins, step.profile.storages, strict=True)
    ]
    seen = [
        (life.origin, life.size_bytes, life.ops, life.anchors, life.uses, life.touches)
        for life in replayed.lives
    ]
    # Recorded storages that no op and no anchor finds are in neither.
    assert sorted(expected, key=repr) == sorted(seen, key=repr)


def rounding_bytes(profile: Profile, found: tuple[Rebuilding, ...]) -> list[int]:
    """What an accelerator's allocator rounds up of all that recipes make, by slot."""
    by_slot_bytes = [0] * len(profile.slots)
    if profile.device.kind != CPU:
        for rebuilding in found:
            for storage in rebuilding.recipe.made:
                by_slot_bytes[rebuilding.recipe.slot] += -profile.storages[storage].size_bytes % 512
    return by_slot_bytes


def check_memory(
    profile: Profile, step: RecomputedStep, replayed: Replay, rounding_bytes: list[int]
) -> None:
    """Op by op and anchor by anchor, to the byte; slots have room for the ops' own needs."""
    rewritten = step.profile
    at_ops, at_anchors = [0] * len(rewritten.ops), [0] * len(rewritten.slots)
    for life in replayed.lives:
        for op in life.ops:
            at_ops[op] += life.size_bytes
        for anchor in life.anchors:
            at_anchors[anchor] += life.size_bytes
    moments = [Moment(op.slot, k) for k, op in enumerate(rewritten.ops)]
    assert list(bytes_at(rewritten, moments)) == at_ops
    anchors = [Moment(t, None) for t in range(len(rewritten.slots))]
    assert list(bytes_at(rewritten, anchors)) == at_anchors
    needs_bytes = [slot.resident_bytes for slot in slot_memory(rewritten)]
    for t, need_bytes in enumerate(needs_bytes):
        of_ops = [held for op, held in zip(rewritten.ops, at_ops, strict=True) if op.slot == t]
        again = [op.slot for r in step.rebuilds if r.slot == t for op in r.ops]
        own_bytes = max(profile.slots[u].overhead_bytes for u in (t, *again))
        assert need_bytes == max(at_anchors[t], *of_ops, 0) + own_bytes + rounding_bytes[t]


def check_times(profile: Profile, step: RecomputedStep) -> None:
    """What is run again takes its time where it is run, and has its name."""
    for t, slot in enumerate(profile.slots):
        again = [op.op for r in step.rebuilds if r.slot == t for op in r.ops]
        us = sum(profile.ops[k].duration_us for k in again)
        assert step.recompute_us[t] == pytest.approx(us)
        assert step.profile.slots[t].duration_us == pytest.approx(slot.duration_us + us)
        names = [profile.ops[k].name for k in again]
        names += [op.name for op in profile.ops if op.slot == t]
        assert [op.name for op in step.profile.ops if op.slot == t] == names
    first_op = [range_.start for range_ in ops_of_slots(profile)]
    for rebuild in step.rebuilds:
        assert all(drop.slot < rebuild.slot for drop in rebuild.drops)
        for op in rebuild.ops:
            assert (op.name, op.slot) == (profile.ops[op.op].name, profile.ops[op.op].slot)
            assert op.position == op.op - first_op[op.slot]


def test_the_random_steps_have_something_of_everything() -> None:
    """So that what the properties say is said of something."""
    drops = together = found = besides = again = twice = statistics = 0
    for seed in range(300):
        profile = op_step(seed)
        _, recipes = random_drops(profile, random.Random(seed))
        gaps = [gap.storage for rebuilding in recipes for gap in rebuilding.gaps]
        drops += len(gaps)
        twice += len(gaps) > len(set(gaps))
        together += any(len(rebuilding.gaps) > 1 for rebuilding in recipes)
        found += any(rebuilding.recipe.found for rebuilding in recipes)
        besides += any(len(r.recipe.made) > len(r.gaps) for r in recipes)
        ops = [op for rebuilding in recipes for op in rebuilding.recipe.ops]
        again += len(ops) > len(set(ops))
        writes = {
            op
            for op in ops
            if any(
                use.op == op and use.access is Access.WRITE
                for s in profile.storages
                if s.kind is StorageKind.BUFFER
                for use in s.uses
            )
        }
        statistics += bool(writes)
    assert drops > 100
    assert min(together, found, besides, again, twice, statistics) >= 2


def test_on_a_step_of_a_network() -> None:
    """Every second of what is offered is dropped."""
    profile = network_step()
    effects = StepEffects(profile)
    found = rebuilt(effects, offered_gaps(effects)[::2])
    check_rewritten(profile, effects, found)
    assert sum(len(rebuilding.gaps) for rebuilding in found) > 40
