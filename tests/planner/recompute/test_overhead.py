"""What a slot needs beyond storages, against an allocator that counts every op of the replay."""

import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.recompute.overhead import Overhead
from planner.recompute.recipes import Recipe
from planner.recompute.rewriting import recomputed
from profiles import Profile
from profiles.recording.allocator_peaks import with_overhead, with_workspaces
from profiles.schema.memory import Moment, alive_at, slot_memory
from profiles.schema.profile import Storage
from tests.support.planning.toys import activation, fixed, toy
from tests.support.recompute.drops import random_drops
from tests.support.recompute.op_steps import op_steps
from tests.support.recompute.replayed import check_replay

many = settings(max_examples=300)
seeds = st.integers(0, 2**16)
GRANULE_BYTES = 512


@dataclass(frozen=True)
class Allocator:
    """One that rounds up, of a device whose libraries hold memory and whose ops take some more."""

    held_bytes: int
    workspaces_bytes: tuple[int, ...]

    def rounded_bytes(self, size_bytes: int) -> int:
        return -(-size_bytes // GRANULE_BYTES) * GRANULE_BYTES

    def allocated_bytes(self, storages: tuple[Storage, ...]) -> int:
        return self.held_bytes + sum(self.rounded_bytes(s.size_bytes) for s in storages)

    def recorded(self, profile: Profile) -> Profile:
        """The profile as it is recorded there: with peaks of slots and workspaces of ops."""
        peaks_bytes = [
            self.allocated_bytes(alive_at(profile, Moment(t, None)))
            for t in range(len(profile.slots))
        ]
        for k, op in enumerate(profile.ops):
            there = self.allocated_bytes(alive_at(profile, Moment(op.slot, k)))
            taken = there + self.workspaces_bytes[k]
            peaks_bytes[op.slot] = max(peaks_bytes[op.slot], taken)
        return with_overhead(
            with_workspaces(on_gpu(profile), self.workspaces_bytes), tuple(peaks_bytes)
        )


def on_gpu(profile: Profile) -> Profile:
    """The same step on a GPU, with no overhead yet."""
    gpu = profile.device.model_copy(update={"kind": "cuda"})
    slots = tuple(slot.model_copy(update={"overhead_bytes": 0}) for slot in profile.slots)
    return profile.model_copy(update={"device": gpu, "slots": slots})


@given(op_steps, seeds)
@many
def test_every_op_that_is_run_again_has_room(profile: Profile, seed: int) -> None:
    draw = random.Random(seed)
    workspaces = tuple(draw.choice((0, 0, 100, 4096)) for _ in profile.ops)
    allocator = Allocator(draw.choice((0, 700)), workspaces)
    recorded = allocator.recorded(profile)
    effects, found = random_drops(recorded, draw)
    step = recomputed(effects, found)
    allocated_bytes = [allocator.held_bytes] * len(step.profile.ops)
    for life in check_replay(recorded, step.rebuilds).lives:
        for k in life.ops:
            allocated_bytes[k] += allocator.rounded_bytes(life.size_bytes)
    needs = slot_memory(step.profile)
    for op, there_bytes in zip(step.profile.ops, allocated_bytes, strict=True):
        assert op.workspace_bytes is not None
        assert there_bytes + op.workspace_bytes <= needs[op.slot].resident_bytes


def three_slots() -> Profile:
    """Slot 0 makes x of 100 bytes and takes 3000 meanwhile; the others take none.

    Rounded up are 412 bytes of x, 212 of y, which is there in slot 1, and 12 of z in slot 2.
    """
    storages = [activation("x", 100, 0, 2), fixed("y", 300, 1), fixed("z", 500, 2)]
    return Allocator(50, (3000, 0, 0)).recorded(toy(10, 10, 10, storages=storages))


def test_what_an_op_takes_comes_on_top_of_what_is_there_where_it_runs_again() -> None:
    profile = three_slots()
    assert [slot.overhead_bytes for slot in profile.slots[:3]] == [3462, 674, 474]
    # At slot 2's anchor there is x in the recorded step: 50 held, 412 of x, 3000 taken by the op,
    # and the new x.
    again = Overhead(profile).with_recipes([Recipe(slot=2, ops={0}, made={0: 1})])
    assert again[:3] == [3462, 674, 50 + 412 + 3000 + 412]


def test_an_op_that_takes_little_needs_no_more_than_its_slot() -> None:
    profile = three_slots()
    again = Overhead(profile).with_recipes([Recipe(slot=2, ops={1})])
    assert again == [slot.overhead_bytes for slot in profile.slots]


def test_where_no_workspace_is_known_the_slots_overhead_stands_for_it() -> None:
    """That of the slot where the op ran; what is made is rounded up on top."""
    profile = three_slots()
    ops = tuple(op.model_copy(update={"workspace_bytes": None}) for op in profile.ops)
    unknown = profile.model_copy(update={"ops": ops})
    again = Overhead(unknown).with_recipes([Recipe(slot=2, ops={0}, made={0: 1})])
    assert again[:3] == [3462, 674, 3462 + 412]


def test_the_emulated_device_rounds_nothing_up() -> None:
    storages = [activation("x", 100, 0, 2), fixed("y", 300, 1), fixed("z", 500, 2)]
    profile = toy(10, 10, 10, storages=storages)
    again = Overhead(profile).with_recipes([Recipe(slot=2, ops={0}, made={0: 1})])
    assert again == [0, 0, 0, 0]
