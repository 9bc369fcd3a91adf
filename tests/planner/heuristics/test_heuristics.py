"""Each heuristic's own rule on steps solved by hand, and what holds for all of them.

In the toys every slot is a layer, and backward begins in the slot that holds the most bytes.
"""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from planner.build_plan import Solution, build_plan
from planner.heuristics import controls
from planner.heuristics.capuchin import CAPUCHIN
from planner.heuristics.evictors import SUPERNEURONS, SWAPADVISOR
from planner.heuristics.flashneuron import FLASHNEURON
from planner.heuristics.heuristic import Heuristic, Swaps, one_stream_stall_us, timeline, waits_us
from planner.heuristics.lms import PYTORCH_LMS, TFLMS_V1, TFLMS_V2
from planner.heuristics.task import Task
from planner.heuristics.teraio import G10, TERAIO
from planner.heuristics.torch_offload import (
    DEEPCOMPILE,
    MAX_FWD_STASH,
    TORCH_PASS,
    TORCH_PASS_SINK,
    TORCHTITAN,
    TORCHTUNE,
)
from planner.heuristics.vdnn import VDNN_ALL, VDNN_CONV
from planner.ilp.deadline import SolverName
from planner.plan.plan import Boundary, BoundSource, Proof
from planner.problem.timed_swap import TimedSwap, held_bytes
from planner.search import starts
from planner.search.list_scheduler import schedule_swaps
from planner.studies.compare import (
    HEURISTICS,
    Comparison,
    our_plan,
    our_smallest_budget_bytes,
    smallest_budget_bytes,
)
from profiles.schema.checks import verified
from profiles.schema.profile import Profile, StorageKind
from tests.support.planning.reference import BareSwap, alive_across, alive_at, simulate
from tests.support.planning.strategies import jobs, peak_bytes
from tests.support.planning.tasks import steps_of_ten, task, two_for_one, two_for_one_storages
from tests.support.planning.toys import (
    activation,
    fixed,
    resident,
    toy,
    toy_link,
    transformer_like,
    unet_like,
)

MIB = 2**20
NAMES = [heuristic.name for heuristic in HEURISTICS]


def heavy(profile: Profile, *ops: int) -> Profile:
    """The same step, with convolutions for some ops."""
    content = profile.model_dump()
    for k in ops:
        content["ops"][k]["name"] = "aten.convolution.default"
    return verified(Profile.model_validate(content))


def moves(heuristic: Heuristic, profile: Profile, budget_bytes: int) -> list[tuple[int, ...]]:
    """What a rule does: storage, swap-out, release, swap-in, await."""
    asked = task(profile, budget_bytes).bounded(heuristic.boundary)
    return [t[1:-1] for t in heuristic.swaps(asked)]


def stall_us(heuristic: Heuristic, profile: Profile, budget_bytes: int) -> float:
    asked = task(profile, budget_bytes).bounded(heuristic.boundary)
    return heuristic.stall_us(asked.problem, heuristic.swaps(asked))


def test_vdnn_waits_at_the_end_of_every_layer() -> None:
    # x leaves during slot 1 (4 us of its 6 hide) and is waited for at anchor 2: 2 us. Slot 3 is the
    # last forward layer. During slot 4 the search finds x in slot 5: back there, waited for at 5.
    # During slot 3 it gives up at the convolution in slot 4.
    storages = [activation("x", 6, 0, 5), fixed("w", 6, 3)]
    profile = heavy(toy(10, 4, 10, 10, 10, 10, storages=storages), 4)
    assert moves(VDNN_ALL, profile, 6) == [(0, 1, 2, 4, 5)]
    assert stall_us(VDNN_ALL, profile, 6) == 2


def test_vdnn_prefetches_too_early_when_no_convolution_stops_it() -> None:
    # Without one it fetches x during slot 3 and waits at anchor 4: 12 bytes, whatever the budget.
    storages = [activation("x", 6, 0, 5), fixed("w", 6, 3)]
    profile = toy(10, 4, 10, 10, 10, 10, storages=storages)
    assert moves(VDNN_ALL, profile, 6) == [(0, 1, 2, 3, 4)]
    assert smallest_budget_bytes(VDNN_ALL, task(profile, 6)) == 12


def test_vdnn_conv_moves_what_convolutions_read() -> None:
    # y is read by the convolution in slot 2; x by none. y leaves during slot 3 and is fetched
    # during the convolution in slot 5.
    y = replace(activation("y", 6, 1, 2, 6), shown_at=3)
    profile = heavy(steps_of_ten(8, [activation("x", 6, 0, 7), y, fixed("w", 6, 4)]), 2, 5)
    assert moves(VDNN_CONV, profile, 12) == [(1, 3, 4, 5, 6)]
    assert {storage for storage, *_ in moves(VDNN_ALL, profile, 12)} == {0, 1}


def test_tflms_1_takes_the_first_tensors_and_fetches_one_op_ahead() -> None:
    # One tensor is enough, the first one made. Out in slot 1, over by anchor 2; op 5 is one before
    # its consumer.
    assert moves(TFLMS_V1, two_for_one(), 12) == [(0, 1, 2, 5, 6)]
    assert stall_us(TFLMS_V1, two_for_one(), 12) == 0


def test_tflms_2_moves_the_longest_edges_and_keeps_a_tenth_free() -> None:
    # x spans 6 ops, y 4. At budget 14 nine tenths are 12.6, so slot 3 needs one away: the threshold
    # rises to 5 and x goes. The largest lead in its simulator is 2 ops: earlier meets w in slot 3.
    assert moves(TFLMS_V2, two_for_one(), 14) == [(0, 1, 2, 4, 6)]
    # At budget 12 they are 10.8: both go, although one would do.
    assert {storage for storage, *_ in moves(TFLMS_V2, two_for_one(), 12)} == {0, 1}


def test_pytorch_lms_pages_out_the_best_fit_and_never_fetches_ahead() -> None:
    # Slot 3 misses 5 bytes: of x (6), y (9) and z (2) x fits best. It pages in when it is used.
    x, y, z = activation("x", 6, 0, 6), activation("y", 9, 1, 5), activation("z", 2, 2, 5)
    profile = steps_of_ten(7, [x, y, z, fixed("w", 5, 3)])
    assert moves(PYTORCH_LMS, profile, 17) == [(0, 1, 3, 6, 6)]
    assert stall_us(PYTORCH_LMS, profile, 17) == 6


def test_superneurons_evicts_what_was_used_longest_ago_and_waits() -> None:
    # x was used before y. Its copy starts when memory is missed: 6 us. Prefetch begins with the
    # convolution in slot 4.
    profile = heavy(two_for_one(), 4)
    assert moves(SUPERNEURONS, profile, 12) == [(0, 3, 3, 4, 6)]
    assert stall_us(SUPERNEURONS, profile, 12) == 6


def test_capuchin_takes_the_longest_free_time_and_fetches_just_in_time() -> None:
    # x is idle for 50 us, y for 30, and each copy takes 6. The last access 6 us before slot 6 is at
    # anchor 5.
    assert moves(CAPUCHIN, two_for_one(), 12) == [(0, 1, 2, 5, 6)]


def test_capuchin_triggers_earlier_what_came_late() -> None:
    # x and y, 12 bytes each, must be back for slot 6. Just in time both start at anchor 5: 24 us in
    # 20. Feedback moves the late one to anchor 4, and nothing is waited for.
    x, y, w = activation("x", 12, 0, 6), activation("y", 12, 1, 6), fixed("w", 24, 3)
    profile = toy(*[20] * 7, storages=[x, y, w])
    problem = task(profile, 24).problem
    found = CAPUCHIN.swaps(task(profile, 24))
    assert sorted(swap.swap_in_slot for swap in found) == [4, 5]
    assert waits_us(timeline(problem, found), found) == {}
    at_once = [swap._replace(swap_in_slot=5) for swap in found]
    assert waits_us(timeline(problem, at_once), at_once) == {1: 4}


def test_swapadvisor_evicts_what_is_used_last_and_fetches_early() -> None:
    # x is used after y. Slot 3 needs it away; from slot 4 on there is room.
    assert moves(SWAPADVISOR, two_for_one(), 12) == [(0, 1, 3, 4, 6)]


def test_flashneuron_offloads_in_order_until_the_rest_fits() -> None:
    # The largest op touches 6 bytes, so the line is at 13 - 6 = 7: of 12 bytes x's 6 must go.
    assert moves(FLASHNEURON, two_for_one(), 13) == [(0, 1, 2, 4, 6)]
    # A step of which parameters and the largest op fill the budget has no plan.
    profile = steps_of_ten(7, [*two_for_one_storages(), resident("p", 8, 0)])
    assert moves(FLASHNEURON, profile, 13) == []


def long_or_large() -> Profile:
    """At budget 20 slots 4, 5 (24 bytes) and 7 (21) are over.

    a, 10 bytes, is idle from slot 3 on for slot 7; b, 4 bytes, from slot 1 on for slot 9.
    """
    a, b = activation("a", 10, 2, 7), activation("b", 4, 0, 9)
    return steps_of_ten(10, [a, b, fixed("w", 10, 4, 5), fixed("v", 7, 7)])


def test_g10_takes_the_largest_area() -> None:
    # a: 10 bytes times the 20 us of slots 4 and 5; b: 4 bytes times 30 us. a goes first. Slot 7 is
    # still over, so b goes, too. Without b slot 5 has room for a, which comes back eagerly.
    assert moves(G10, long_or_large(), 20) == [(1, 1, 2, 8, 9), (0, 3, 4, 5, 7)]


def test_teraio_takes_the_most_benefit_per_time_of_the_copies() -> None:
    # a: 10 bytes times 20 us in 20 us of copies; b: 4 times 30 in 8. b goes, and that is enough.
    assert moves(TERAIO, long_or_large(), 20) == [(1, 1, 2, 8, 9)]


def test_g10_fetches_eagerly_and_teraio_at_the_latest() -> None:
    # a's 10 us start 10 us before slot 8 at the latest, in slot 7; from slot 5 on there is room.
    a = activation("a", 10, 2, 8)
    profile = steps_of_ten(9, [a, fixed("w", 10, 4)])
    assert moves(TERAIO, profile, 10) == [(0, 3, 4, 7, 8)]
    assert moves(G10, profile, 10) == [(0, 3, 4, 5, 8)]


def test_torchtune_keeps_the_last_five() -> None:
    # Seven activations of 4 bytes are packed at anchors 1 to 7. The first one stays until the sixth
    # is packed, the second until the seventh; the others stay. Compute waits 4 us for each back.
    storages = [activation(f"x{i}", 4, i, 15 - i) for i in range(MAX_FWD_STASH + 2)]
    profile = steps_of_ten(16, [*storages, fixed("w", 4, 8)])
    assert moves(TORCHTUNE, profile, 1) == [(0, 1, 6, 15, 15), (1, 2, 7, 14, 14)]
    assert stall_us(TORCHTUNE, profile, 1) == 8


def test_the_torch_pass_waits_for_every_copy_out_or_for_all_at_the_end() -> None:
    # x's 6 us and y's 6 us are waited for at once; or both copies hide and end with forward, when
    # slot 3 begins. A reload needs 6 us of convolutions above it: the one in slot 4 serves y,
    # which is at the head of the queue, and x is left for the beginning.
    profile = heavy(two_for_one(), 4)
    assert moves(TORCH_PASS, profile, 1) == [(0, 1, 1, 4, 6), (1, 2, 2, 3, 5)]
    assert moves(TORCH_PASS_SINK, profile, 1) == [(0, 1, 3, 4, 6), (1, 2, 3, 4, 5)]
    assert stall_us(TORCH_PASS, profile, 1) == 12


def test_torchtitan_takes_the_largest_and_waits_one_layer_later() -> None:
    # y is larger than x and enough. It is idle from slot 2 on: compute waits for it when slot 3,
    # the layer after that, ends. It is fetched one layer ahead of slot 7.
    x, y = activation("x", 5, 0, 8), activation("y", 6, 1, 7)
    profile = steps_of_ten(9, [x, y, fixed("w", 9, 5)])
    assert moves(TORCHTITAN, profile, 14) == [(1, 2, 4, 6, 7)]
    assert stall_us(TORCHTITAN, profile, 14) == 0
    # What is packed in the last forward layer stays; z is, and is not even the smallest.
    z = activation("z", 7, 4, 6)
    storages = [x, y, z, fixed("w", 9, 5)]
    moved = {storage for storage, *_ in moves(TORCHTITAN, steps_of_ten(9, storages), 1)}
    assert moved == {0, 1}


def test_deepcompile_brings_the_largest_back_and_waits_for_every_copy_out() -> None:
    # With x (6 MiB) and y (5) away slot 3 holds w (8). Nine tenths of 16 are 14.4: x comes back, y
    # does not. Compute waits 5 us for y; its 5 us back hide in slot 4.
    link = toy_link(float(MIB), float(MIB))
    x, y = activation("x", 6 * MIB, 0, 6), activation("y", 5 * MIB, 1, 5)
    profile = steps_of_ten(7, [x, y, fixed("w", 8 * MIB, 3)], link)
    assert moves(DEEPCOMPILE, profile, 16 * MIB) == [(1, 2, 2, 4, 5)]
    assert stall_us(DEEPCOMPILE, profile, 16 * MIB) == 5


def test_controls_move_what_their_names_say() -> None:
    p = resident("parameter:p", 7, 3)
    profile = steps_of_ten(7, [*two_for_one_storages(), p])
    moved = {
        heuristic.name: {storage for storage, *_ in moves(heuristic, profile, 19)}
        for heuristic in (controls.NOTHING, controls.EVERYTHING, controls.ALL_ACTIVATIONS)
    }
    # Slot 3 holds 25 bytes, 6 over. What hides its way out is given back, needed or not.
    assert moved == {"nothing": set(), "everything": {0, 1, 3}, "all activations": {0, 1}}
    assert moves(controls.LARGEST_FIRST, two_for_one(), 12) == [(0, 1, 2, 5, 6)]


@pytest.mark.parametrize(
    ("heuristic", "anchors", "stall"),
    [
        # Paged out as soon as it is idle, missed in slot 0, paged in when it is used: 6 us.
        (PYTORCH_LMS, (4, 6, 9, 9), 6),
        (SWAPADVISOR, (4, 6, 7, 9), 0),
        (G10, (4, 5, 7, 9), 0),
        (TERAIO, (4, 5, 8, 9), 0),
        (controls.EVERYTHING, (4, 5, 8, 9), 0),
    ],
    ids=lambda value: value.name if isinstance(value, Heuristic) else "",
)
def test_rules_for_every_class_go_round_the_step_boundary(
    heuristic: Heuristic, anchors: tuple[int, ...], stall: float
) -> None:
    # s, 6 bytes, is touched in slot 3 alone; slot 0 needs 6 more than the budget. Slots 6 to 11 are
    # those of the next step. Its way out hides in slot 4, and there is room again from slot 7 on.
    s = resident("state:s", 6, 3, kind=StorageKind.OPTIMIZER_STATE, writes=[3])
    profile = steps_of_ten(5, [s, fixed("w", 6, 0)])
    assert moves(heuristic, profile, 6) == [(0, *anchors)]
    assert stall_us(heuristic, profile, 6) == stall
    assert smallest_budget_bytes(heuristic, task(profile, 6)) == 6


@pytest.mark.parametrize("heuristic", [CAPUCHIN, VDNN_ALL, TFLMS_V2], ids=lambda b: b.name)
def test_other_rules_find_everything_there_when_a_step_begins(heuristic: Heuristic) -> None:
    s = resident("state:s", 6, 3, kind=StorageKind.OPTIMIZER_STATE, writes=[3])
    profile = steps_of_ten(5, [s, fixed("w", 6, 0)])
    for gap in task(profile, 6).bounded(heuristic.boundary).gaps:
        assert gap.next_use_slot < len(profile.slots)


def test_one_stream_makes_ways_out_and_in_wait_for_each_other() -> None:
    # y leaves at anchor 4 for 6 us while x comes back at anchor 4: alone x is there at anchor 5
    # (10 us). On one stream its copy starts after y's, and 2 us are waited for.
    x, y = activation("x", 6, 0, 5), activation("y", 6, 3, 9)
    profile = steps_of_ten(10, [x, y])
    problem = task(profile, 100).problem
    one_way = (TimedSwap(0, 0, 1, 2, 4, 5), TimedSwap(1, 1, 4, 5, 8, 9))
    assert timeline(problem, one_way).total_stall_us == 0
    assert one_stream_stall_us(problem, one_way) == 2


def test_a_copy_back_may_start_no_later_than_it_is_over_in_time() -> None:
    # x's 6 us fit into slot 5; its 12 us need slot 4, too; its 600 us fit nowhere.
    x, w = activation("x", 6, 0, 6), fixed("w", 6, 3)
    asked = task(steps_of_ten(7, [x, w]), 6)
    assert asked.latest_start_slot(0) == 5
    slow = task(steps_of_ten(7, [x, w], toy_link(1, 0.5)), 6)
    assert slow.latest_start_slot(0) == 4
    slowest = task(steps_of_ten(7, [x, w], toy_link(1, 0.01)), 6)
    assert slowest.latest_start_slot(0) == 2


def check_heuristic(heuristic: Heuristic, profile: Profile, budget_bytes: int) -> None:
    """What holds for whatever a rule does: its anchors, its memory and its stall."""
    asked = task(profile, budget_bytes).bounded(heuristic.boundary)
    theirs = heuristic.swaps(asked)
    for swap in theirs:
        gap = asked.gaps[swap.gap]
        assert gap.first_slot <= swap.swap_out_slot <= swap.release_slot < swap.swap_in_slot
        assert swap.swap_in_slot <= swap.await_slot <= gap.next_use_slot
    held = held_bytes(asked.problem, theirs)
    for t, planned in enumerate(held):
        assert planned == walked_bytes(profile, asked, theirs, t), f"slot {t}"
    own_us = timeline(asked.problem, theirs).total_stall_us
    assert own_us == pytest.approx(reference_us(profile, asked, theirs))
    if heuristic.boundary is Boundary.RESIDENT:
        # Two streams make nothing later than one does.
        one_us = one_stream_stall_us(asked.problem, theirs)
        assert one_us >= own_us - 1e-6


def walked_bytes(profile: Profile, asked: Task, theirs: Swaps, slot: int) -> int:
    """Most bytes at a slot's anchor or any of its ops, from the profile's own storages."""
    count = len(profile.slots)
    away = {
        asked.gaps[t.gap].storage
        for t in theirs
        if (slot - t.release_slot) % count < t.swap_in_slot - t.release_slot
    }
    moments = [alive_at(profile, k) for k, op in enumerate(profile.ops) if op.slot == slot]
    moments.append(alive_across(profile, slot))
    used = {s.id for s in profile.storages for use in s.uses if profile.ops[use.op].slot == slot}
    used |= {s.id for s in profile.storages for touch in s.touches if touch.slot == slot}
    assert not away & used, "away while it is used"
    most = max(sum(s.size_bytes for s in moment if s.id not in away) for moment in moments)
    return most + profile.slots[slot].overhead_bytes


def reference_us(profile: Profile, asked: Task, theirs: Swaps) -> float:
    sizes = {s.id: s.size_bytes for s in profile.storages}
    count = len(profile.slots)
    moves = []
    for t in theirs:
        out, release, swap_in, awaited = (slot % count for slot in t[2:-1])
        moves.append(BareSwap(asked.gaps[t.gap].storage, out, release, swap_in, awaited))
    slots_us = [slot.duration_us for slot in profile.slots]
    return sum(simulate(slots_us, sizes, moves, profile.link).stall_us)


@pytest.mark.parametrize("heuristic", HEURISTICS, ids=NAMES)
@given(job=jobs())
@settings(max_examples=25)
def test_a_plan_that_claims_to_fit_does(heuristic: Heuristic, job: tuple[Profile, int]) -> None:
    check_heuristic(heuristic, *job)


@pytest.mark.parametrize("heuristic", HEURISTICS, ids=NAMES)
@pytest.mark.parametrize("profile", [unet_like(4), transformer_like(4)], ids=["unet", "gpt"])
def test_synthetic_networks(heuristic: Heuristic, profile: Profile) -> None:
    for percent in (40, 60, 80):
        check_heuristic(heuristic, profile, peak_bytes(profile) * percent // 100)


@given(job=jobs())
@settings(max_examples=40)
def test_no_heuristic_beats_our_plan(job: tuple[Profile, int]) -> None:
    check_ours_is_best(*job)


@pytest.mark.parametrize(
    "profile",
    [two_for_one(), long_or_large(), unet_like(3), unet_like(4), transformer_like(4)],
    ids=["two for one", "long or large", "small unet", "unet", "gpt"],
)
def test_no_heuristic_beats_our_plan_on_toys(profile: Profile) -> None:
    for percent in (50, 70, 90):
        check_ours_is_best(profile, peak_bytes(profile) * percent // 100)


def check_ours_is_best(profile: Profile, budget_bytes: int) -> None:
    asked = task(profile, budget_bytes)
    smallest = our_smallest_budget_bytes(asked)
    if budget_bytes < smallest:
        return
    plan = our_plan(asked, solver=SolverName.HIGHS, time_limit_s=600.0)
    ours_us = plan.certificate.simulated_stall_us
    rows = Comparison(asked, plan.certificate.bound_beyond_us, is_full=False).rows(HEURISTICS)
    beaten = {row.name: row.stall_us for row in rows if row.fits and row.stall_us < ours_us - 1e-3}
    assert beaten == {}, f"ours stalls {ours_us}"


@given(job=jobs())
@settings(max_examples=25)
def test_published_starts_meet_the_budget_and_wait_no_longer(job: tuple[Profile, int]) -> None:
    profile, budget_bytes = job
    asked = task(profile, budget_bytes)
    for boundary in Boundary:
        problem = asked.bounded(boundary).problem
        for heuristic in starts.HEURISTICS:
            theirs = heuristic.swaps(asked.bounded(boundary))
            if max(held_bytes(problem, theirs)) > budget_bytes:
                continue
            candidates = [*starts.candidates_of(theirs)]
            assert all(problem.fits(candidate.chosen) for candidate in candidates)
            least_us = min(schedule_swaps(problem, candidate).stall_us for candidate in candidates)
            # Slots in which nothing is missing are not waited for, so it may even be less.
            own_us = heuristic.stall_us(problem, theirs) + 1e-6 * (1 + problem.compute_us)
            assert least_us <= own_us
            timing = starts.published_timing(problem, theirs)
            assert timing.stall_us <= own_us
            plan = build_plan(
                profile,
                Solution(
                    problem,
                    timing.chosen,
                    timing.swaps,
                    0.0,
                    0.0,
                    BoundSource.TRIVIAL,
                    Proof.FEASIBLE,
                ),
                solver=SolverName.HIGHS,
                seconds=0.0,
            )
            assert plan.certificate.simulated_stall_us == pytest.approx(timing.stall_us)
