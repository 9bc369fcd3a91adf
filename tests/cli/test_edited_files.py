"""Profile and plan files that were edited or damaged: refused by their reader, by `plan check` and
by every other command that reads them, in one line that names the file and the place in it."""

import gzip
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from planner.plan.plan import Plan
from planner.plan.plan_file import read_unverified_plan
from planner.studies.check import check_plan
from profiles.schema.files import write_file
from profiles.schema.profile import SlotTimes
from profiles.schema.profile_file import read_profile
from tests.cli.conftest import Failure
from tests.support.planning.edited_files import (
    ABSENT,
    KINDS,
    PROFILE,
    READ,
    SETS,
    Edit,
    content_of,
    plan_of_it,
    record,
    refusal,
    refused,
    write_edited,
    wrong_edits,
)
from tests.support.planning.rebuilt import mixed_plan

REMAKE = {
    "profile": "The file was damaged or edited: make it again with 'plan profile'.",
    "plan": "The file was damaged or edited: make it again with 'plan solve'.",
}


rebuilding_plan = cache(mixed_plan)


def use_of(kind: str, path: Path) -> tuple[str | Path, ...]:
    """The command that a kind of file is made for."""
    output = path.with_name("output.json")
    return ("run", path) if kind == "plan" else ("solve", path, "--budget", "70%", "-o", output)


def refused_everywhere(kind: str, path: Path, message: str, failure: Failure) -> str:
    """Returns all that the reader says of a file; the commands say it too."""
    found = refused(READ[kind], path)
    assert message in found
    assert message in failure("show", path)
    assert failure(*use_of(kind, path)) == f"plan: {found}"
    return found


PROFILE_EDITS: list[tuple[Edit, str]] = [
    ({"link": ABSENT}, "link is missing"),
    ({"colour": "red"}, "colour is 'red': extra inputs are not permitted"),
    ({"link.d2h_bytes_per_us": 0}, "link.d2h_bytes_per_us is 0: input should be greater than"),
    ({"link.provenance": "guessed"}, "link.provenance is 'guessed': input should be 'measured', "),
    ({"ops.1.slot": 99}, "ops[1].slot is 99, expected 0 to 4"),
    ({"ops.2.slot": 5}, "ops[2].slot is 5, expected 1 to 4"),
    ({"ops.2.slot": 0}, "ops[2].slot is 0, expected 1 to 4"),
    ({"slots.0.anchor": "start"}, "slots run from 'start' to 'end', expected 'begin' to 'end'"),
    ({"slots.-1.anchor": "stop"}, "slots run from 'begin' to 'stop', expected 'begin' to 'end'"),
    ({"slots.-1": ABSENT}, "slots run from 'begin' to 'anchor:4', expected 'begin' to 'end'"),
    ({"slots.2.anchor": "anchor:1"}, "two slots open at anchor 'anchor:1', expected one"),
    ({"slots.1.shows": 5}, "slots[1].shows is 5, expected below 5"),
    ({"slots.1.duration_us": -1.0}, "slots[1].duration_us is -1.0: input should be greater than"),
    ({"slots.1.duration_us": float("nan")}, "slots[1].duration_us is nan: input should be a fin"),
    ({"slots.-1.duration_us": 3.0}, "slots[-1].duration_us is 3.0, expected 0 after 'end'"),
    (
        {"slots.1.duration_us": 21.0, "slot_times": SlotTimes.SUM_OF_OPS.value},
        "slots[1].duration_us is 21.0, expected 20.0, the sum of its ops",
    ),
    ({"storages.1.id": 2}, "storages[1].id is 2, expected 1"),
    ({"storages.1.name": "pack:0"}, "two storages are named 'pack:0', expected one"),
    ({"storages.1.name": ""}, "storages[1].name is empty, expected how replay finds it"),
    ({"storages.0.kind": "pet"}, "storages[0].kind is 'pet': input should be 'parameter', "),
    ({"storages.0.size_bytes": -5}, "storages[0].size_bytes is -5: input should be greater than"),
    ({"storages.0.size_bytes": "5"}, "storages[0].size_bytes is '5': input should be a valid int"),
    (
        {"storages.1.left_out": "no anchor shows it"},
        "storages[1] is left out as 'no anchor shows it', but shown_at is set",
    ),
    ({"storages.1.left_out": "no reason"}, "storages[1].left_out is 'no reason': input should be"),
    ({"storages.1.released_op": 5}, "storages[1] lives from op 1 to op 5 (allocated_op, released"),
    ({"storages.1.allocated_op": 99}, "storages[1] lives from op 99 to op 2 (allocated_op, relea"),
    ({"storages.1.released_op": 0}, "storages[1] is used by op 1, expected 1 to 0 (released_op)"),
    ({"storages.1.uses.0.op": 4}, "storages[1] is used by op 4, expected 1 to 2 (released_op)"),
    ({"storages.1.uses.0.access": "touch"}, "storages[1].uses[0].access is 'touch': input should"),
    ({"storages.1.shown_at": 6}, "storages[1].shown_at is 6, expected below 6"),
    ({"storages.1.shown_at": 3}, "storages[1] is not what the anchor of slot 3 shows, its shown"),
    ({"storages.1.shown_at": None}, "storages[1] is shown by no anchor, expected left_out to say"),
]
"""Of a step of five slots, an op in each, and `end`; storage 1 is made by op 1, read by op 2."""

MALFORMED_PLANS: list[tuple[Edit, str]] = [
    ({"storages.0.size_bytes": -5}, "storages[0].size_bytes is -5: input should be greater than"),
    ({"certificate.proof": ABSENT}, "certificate.proof is missing"),
    ({"certificate.peak_bytes": "100"}, "certificate.peak_bytes is '100': input should be a valid"),
    ({"swaps.0.engine": "warp_drive"}, "swaps[0].engine is 'warp_drive': input should be 'copy"),
    ({"swaps.0.engine": "strided_kernel"}, "swaps[0].engine is 'strided_kernel': input should be"),
    ({"swaps.0.engine": ABSENT}, "swaps[0].engine is missing"),
    ({"swaps.0.host_offset_bytes": 10**30}, f"swaps[0].host_offset_bytes is {10**30}: input shou"),
]

BIT_RATES = {"engine": "bitpack_kernel", "size_bytes": 6, "together": 1} | dict.fromkeys(
    ("d2h_bytes_per_us", "h2d_bytes_per_us"), 1.0
)
ORDER = "swaps[0] has its swap-out, release, swap-in and await at slots"

UNSOUND_PLANS: list[tuple[Edit, str]] = [
    # Swaps
    ({"swaps.0.storage": 7}, "swaps[0].storage is 7, expected the id of a storage in the plan"),
    ({"swaps.0.swap_out_slot": 51}, "swaps[0].swap_out_slot is 51, expected below 6"),
    ({"swaps.0.release_slot": 52}, "swaps[0].release_slot is 52, expected below 6"),
    ({"swaps.0.swap_in_slot": 9}, "swaps[0].swap_in_slot is 9, expected below 6"),
    ({"swaps.0.await_slot": 6}, "swaps[0].await_slot is 6, expected below 6"),
    ({"swaps.0.swap_out_slot": 0}, "swaps[0].swap_out_slot is 0, expected 1 or later: only there"),
    ({"slots.1.shows": None}, "swaps[0] moves storage 0 'pack:0', which no anchor shows"),
    ({"swaps.0.release_slot": 0}, f"{ORDER} 1, 0, 3 and 3, expected in this order"),
    (
        {"swaps.0.swap_in_slot": 2},
        f"{ORDER} 1, 2, 2 and 3, expected in this order, release before swap-in",
    ),
    ({"swaps.0.release_slot": 4}, f"{ORDER} 1, 4, 3 and 3, expected in this order"),
    ({"swaps.0.await_slot": 2}, f"{ORDER} 1, 2, 3 and 2, expected in this order"),
    (
        {"swaps.0.clean": True},
        "swaps[0].release_slot is 2, expected 1 (swap_out_slot): it is clean",
    ),
    ({"boundary": "resident"}, "swaps[1] wraps round the step boundary, expected none that does"),
    (
        {"swaps": lambda swaps: swaps[::-1]},
        "swaps[1].swap_out_slot is 1, expected 5 or later: swaps stand in order of swap-out",
    ),
    (
        {"swaps": lambda swaps: [swaps[0], *swaps]},
        "swaps[1].swap_out_slot is 1, expected after 3: until then swaps[0] moves storage 0",
    ),
    # What carries them
    (
        {"swaps.0.engine": "bitpack_kernel"},
        "swaps[0].engine is 'bitpack_kernel', expected one with rates in link.engines",
    ),
    (
        {"swaps.0.engine": "bitpack_kernel", "link.engines": [BIT_RATES]},
        "swaps[0].engine is 'bitpack_kernel', expected a storage of bools, not 'pack:0'",
    ),
    # Host memory
    (
        {"swaps.0.host_offset_bytes": 1},
        "swaps[0].host_offset_bytes is 1, expected bytes that swaps[1] does not hold at the same",
    ),
    ({"swaps.1.host_offset_bytes": 7}, "host_pool_bytes is 11, expected 12 from the swaps"),
    ({"host_pool_bytes": 0}, "host_pool_bytes is 0, expected 11 from the swaps"),
    ({"host_pool_bytes": 12}, "host_pool_bytes is 12, expected 11 from the swaps"),
    ({"host_budget_bytes": 5}, "host_pool_bytes is 11, expected at most 5 (host_budget_bytes)"),
    ({"host_budget_bytes": 0}, "host_pool_bytes is 11, expected at most 0 (host_budget_bytes)"),
    # Device memory
    (
        {"budget_bytes": 14},
        "slots[1] (anchor:1) holds 15 bytes under the plan, expected at most 14",
    ),
    (
        {"budget_bytes": 3},
        "slots[0] (begin) holds 11 bytes under the plan, expected at most 3 (bud",
    ),
    (
        {
            f"swaps.0.{field}_slot": slot
            for field, slot in (("release", 3), ("swap_in", 4), ("await", 4))
        },
        "slots[2] (anchor:2) holds 21 bytes under the plan, expected at most 15 (budget_bytes)",
    ),
    (
        {"swaps": [], "host_pool_bytes": 0},
        "slots[0] (begin) holds 16 bytes under the plan, expected at most 15 (budget_bytes)",
    ),
    ({"slots.2.resident_bytes": 500}, "slots[2] (anchor:2) holds 489 bytes under the plan, expect"),
    ({"slots.2.resident_bytes": 5}, "slots[2].resident_bytes is 5, less than what is swapped out"),
    # Slots and storages
    ({"slots.0.anchor": "start"}, "slots run from 'start' to 'end', expected 'begin' to 'end'"),
    ({"slots.2.anchor": "anchor:1"}, "two slots open at anchor 'anchor:1', expected one"),
    ({"slots.1.anchor": "end"}, "two slots open at anchor 'end', expected one"),
    ({"slots.3.shows": 8}, "slots[3].shows is 8, expected the id of a storage in the plan"),
    ({"storages": lambda storages: storages[:1] * 2}, "storages[1].id is 0, expected above 0"),
    # The certificate
    ({"certificate.peak_without_bytes": 27}, "certificate.peak_without_bytes is 27, expected 26 "),
    ({"certificate.peak_bytes": 1}, "certificate.peak_bytes is 1, expected 15 "),
    ({"certificate.d2h_bytes": 0}, "certificate.d2h_bytes is 0, expected 11 "),
    ({"certificate.h2d_bytes": 12}, "certificate.h2d_bytes is 12, expected 11 "),
    ({"certificate.compute_us": 54.0}, "certificate.compute_us is 54.0, expected 55.0 "),
    (
        {"certificate.simulated_stall_us": 17.0},
        "certificate.simulated_stall_us is 17.0, expected 1",
    ),
    (
        {"certificate.simulated_stall_us": 9e9},
        "certificate.simulated_stall_us is 9000000000.0, exp",
    ),
    (
        {"certificate.bound_beyond_us": 17.0},
        "certificate.bound_beyond_us is 17.0, expected at most 16.0 (recompute_us and ",
    ),
    *(
        (
            {"certificate.loose_bound_beyond_us": loose, "certificate.bound_beyond_us": bound},
            f"certificate.loose_bound_beyond_us is {loose}, expected at most {bound} (bound_",
        )
        for loose, bound in ((13.0, 12.0), (16.5, 16.0))
    ),
    (
        {
            "certificate.loose_bound_beyond_us": 12.0,
            "certificate.bound_source": "LP relaxation",
        },
        "certificate.bound_beyond_us is 15.99",
    ),
    ({"certificate.bound_source": "no stall is below 0"}, "certificate.bound_beyond_us is 15.99"),
    (
        {"certificate.proof": "not needed"},
        "certificate.proof is 'not needed', but the plan moves st",
    ),
]
"""Of the plan for that step: storage 0 is away from slot 1 to 3, storage 3 from slot 5 to 4."""


MALFORMED_REBUILDS: list[tuple[Edit, str]] = [
    ({"rebuilds": None}, "rebuilds is None: input should be a valid array"),
    ({"rebuilds.0.slot": ABSENT}, "rebuilds[0].slot is missing"),
    ({"rebuilds.0.slot": -1}, "rebuilds[0].slot is -1: input should be greater than"),
    ({"rebuilds.0.ops.0.name": 7}, "rebuilds[0].ops[0].name is 7: input should be a valid str"),
    ({"rebuilds.0.ops.0.position": 0.5}, "rebuilds[0].ops[0].position is 0.5: input should be"),
    ({"rebuilds.1.drops.0.storage": "0"}, "rebuilds[1].drops[0].storage is '0': input should be"),
    ({"slots.5.recompute_us": -1.0}, "slots[5].recompute_us is -1.0: input should be greater"),
    ({"without": "everything"}, "without is 'everything': input should be 'nothing', 'recompute'"),
]
UNSOUND_REBUILDS: list[tuple[Edit, str]] = [
    # What is not to be used
    ({"without": "recompute"}, "without is 'recompute', but the plan has rebuilds"),
    ({"without": ABSENT}, "without is 'recompute', but the plan has rebuilds"),
    ({"without": "swap"}, "without is 'swap', but the plan has swaps"),
    # Recipes
    ({"rebuilds.0.ops": []}, "rebuilds[0] has no ops, expected those to run"),
    ({"rebuilds.0.drops": []}, "rebuilds[0] has no drops, expected what is filled again"),
    (
        {"rebuilds": lambda rebuilds: rebuilds[::-1]},
        "rebuilds[1].slot is 5, expected that of the rebuild before or later",
    ),
    ({"rebuilds.1.slot": 8}, "rebuilds[1].slot is 8, expected 1 to 7"),
    ({"rebuilds.0.slot": 0}, "rebuilds[0].slot is 0, expected 1 to 7"),
    (
        {"rebuilds.0.ops": lambda ops: [*ops, *ops]},
        "rebuilds[0].ops has op 2 after op 2, expected program order",
    ),
    (
        {"rebuilds.0.ops": lambda ops: [*ops, {**ops[0], "op": 1, "slot": 1}]},
        "rebuilds[0].ops has op 1 after op 2, expected program order",
    ),
    (
        {"rebuilds.0.ops": lambda ops: [*ops, {**ops[0], "op": 3, "slot": 1}]},
        "rebuilds[0].ops has op 3 after op 2, expected program order",
    ),
    (
        {"rebuilds.0.ops": lambda ops: [*ops, {**ops[0], "op": 3}]},
        "rebuilds[0].ops has op 3 after op 2, expected program order",
    ),
    (
        {"rebuilds.0.ops.0.slot": 5},
        "rebuilds[0].ops runs op 2 of slot 5, expected one before its own slot",
    ),
    # What they fill
    (
        {"rebuilds.0.drops.0.storage": 7},
        "rebuilds[0].drops[0].storage is 7, expected the id of a storage in the plan",
    ),
    (
        {"storages.2.name": "parameter:w", "storages.2.kind": "parameter"},
        "rebuilds[0].drops[0] drops 'parameter:w' (parameter), expected an activation that is p",
    ),
    (
        {"storages.2.name": "op:2"},
        "rebuilds[0].drops[0] drops 'op:2' (activation), expected an activation that is packed",
    ),
    ({"rebuilds.0.drops.0.slot": 2}, "rebuilds[0].drops[0].slot is 2, expected 3 to 4"),
    ({"rebuilds.0.drops.0.slot": 5}, "rebuilds[0].drops[0].slot is 5, expected 3 to 4"),
    ({"slots.3.shows": None}, "rebuilds[0].drops[0].slot is 3, expected 9 to 4"),
    (
        {"rebuilds.0.drops": lambda drops: [*drops, *drops]},
        "rebuilds[0].drops[1].slot is 3, expected outside 3 to 5, when storage 2 is away already",
    ),
    (
        {"rebuilds.0.drops.0.storage": 1},
        "rebuilds[0].drops[0].slot is 3, expected outside 2 to 6, when storage 1 is away already",
    ),
    (
        {"rebuilds.1.drops.0": {"storage": 2, "slot": 5}},
        "rebuilds[1].drops[0].slot is 5, expected outside 3 to 5, when storage 2 is away already",
    ),
    # Time and memory
    ({"slots.4.recompute_us": 1.0}, "slots[4].recompute_us is 1.0, expected 0 with no rebuild"),
    (
        {"slots.5.recompute_us": 9.0},
        "slots[5].recompute_us is 9.0, expected 10.0 from the reb",
    ),
    (
        {"rebuilds.1.recompute_us": 0.0},
        "slots[7].recompute_us is 10.0, expected 0.0 from the rebuilds",
    ),
    (
        {"slots.5.recompute_us": 511.0, "rebuilds.0.recompute_us": 511.0},
        "slots[5].recompute_us is 511.0, expected at most 510.0 (duration_us)",
    ),
    (
        {"slots.4.resident_bytes": 100},
        "slots[4].resident_bytes is 100, expected 150: 250 (without_bytes) less what is dropped",
    ),
    (
        {"slots.4.without_bytes": None},
        "slots[4].resident_bytes is 150, expected 50: 150 (without_bytes) less what is dropped",
    ),
    (
        {"slots.5.resident_bytes": 151},
        "slots[5] (anchor:5) holds 151 bytes under the plan, expected at most 100 (budget_bytes)",
    ),
    # The certificate
    ({"certificate.recompute_us": 19.0}, "certificate.recompute_us is 19.0, expected 20.0 "),
    ({"certificate.recompute_us": ABSENT}, "certificate.recompute_us is 0.0, expected 20.0 "),
    ({"certificate.compute_us": 43040.0}, "certificate.compute_us is 43040.0, expected 43020.0 "),
    ({"slots.0.duration_us": 11.0}, "certificate.compute_us is 43020.0, expected 43021.0 "),
    (
        {"certificate.peak_without_bytes": 150},
        "certificate.peak_without_bytes is 150, expected 250 ",
    ),
    (
        {"certificate.bound_beyond_us": 9001.0},
        "certificate.bound_beyond_us is 9001.0, expected at most 9000.0 (recompute_us and simulat",
    ),
    (
        {
            "certificate.bound_source": "no stall is below 0",
            "certificate.proof": "not needed",
            "certificate.bound_beyond_us": 0.0,
            "certificate.loose_bound_beyond_us": 0.0,
        },
        "certificate.proof is 'not needed', but the plan moves storages",
    ),
]
"""Of a plan that swaps storage 1 from slot 2 to 6 and rebuilds storage 2, dropped at slot 3, at
slot 5 by op 2, and storage 0, dropped at slot 1, at slot 7 by op 0."""


@pytest.mark.parametrize(("edit", "message"), PROFILE_EDITS)
def test_a_profile(tmp_path: Path, failure: Failure, edit: Edit, message: str) -> None:
    path = write_edited(PROFILE, edit, tmp_path / "x.profile.json")
    found = refused_everywhere("profile", path, f"{path}: {message}", failure)
    assert found.endswith(REMAKE["profile"])


def check_malformed(folder: Path, plan: Plan, edit: Edit, message: str, failure: Failure) -> None:
    path = write_edited(plan, edit, folder / "x.plan.json")
    found = refused_everywhere("plan", path, f"{path}: {message}", failure)
    assert found.endswith(REMAKE["plan"])
    assert failure("check", path) == f"plan: {found}"


def check_unsound(folder: Path, plan: Plan, edit: Edit, message: str, failure: Failure) -> None:
    path = write_edited(plan, edit, folder / "x.plan.json")
    found = refused_everywhere("plan", path, f"{path}: {message}", failure)
    assert found.endswith(REMAKE["plan"])
    mismatch = failure("check", path, exit_code=1)
    assert mismatch.startswith(f"plan: the check failed: {message}")
    # No figure is derived from what does not hold together.
    derived = check_plan(read_unverified_plan(path)).figures
    assert bool(derived) == message.startswith("certificate.")


def of_both(
    plain: list[tuple[Edit, str]], rebuilds: list[tuple[Edit, str]]
) -> list[tuple[Callable[[], Plan], Edit, str]]:
    """Edits of a plan of swaps, and of one that rebuilds."""
    return [
        *((plan_of_it, edit, message) for edit, message in plain),
        *((rebuilding_plan, edit, message) for edit, message in rebuilds),
    ]


@pytest.mark.parametrize(("plan", "edit", "message"), of_both(MALFORMED_PLANS, MALFORMED_REBUILDS))
def test_a_malformed_plan(
    tmp_path: Path, failure: Failure, plan: Callable[[], Plan], edit: Edit, message: str
) -> None:
    check_malformed(tmp_path, plan(), edit, message, failure)


@pytest.mark.parametrize(("plan", "edit", "message"), of_both(UNSOUND_PLANS, UNSOUND_REBUILDS))
def test_an_unsound_plan(
    tmp_path: Path, failure: Failure, plan: Callable[[], Plan], edit: Edit, message: str
) -> None:
    check_unsound(tmp_path, plan(), edit, message, failure)


def test_every_field_of_rebuilds(tmp_path: Path) -> None:
    """Of a plan that has some; all else is in `test_every_field`."""
    content, path = content_of(rebuilding_plan())["rebuilds"], tmp_path / "x.json"
    accepted = [
        (place, value)
        for place, value in wrong_edits(content, "rebuilds")
        if refusal(READ["plan"], write_edited(rebuilding_plan(), {place: value}, path)) is None
    ]
    assert accepted == []


@pytest.mark.parametrize("kind", [*KINDS, *SETS])
def test_every_field(tmp_path: Path, kind: str) -> None:
    content, path = content_of(record(kind)), tmp_path / "x.json"
    tried = 0
    accepted, unnamed = [], []
    for place, value in wrong_edits(content):
        message = refusal(READ[kind], write_edited(record(kind), {place: value}, path))
        field = next(part for part in reversed(place.split(".")) if not part.isdigit())
        if message is None:
            accepted.append((place, value))
        elif field not in message:
            unnamed.append((place, value, message))
        tried += 1
    assert tried > 300
    assert not accepted
    assert not unnamed


def test_slots_may_take_more_than_their_ops(tmp_path: Path) -> None:
    """Unless the profile says that they are the sum: from anchor to anchor there is more."""
    path = write_edited(PROFILE, {"slots.1.duration_us": 21.0}, tmp_path / "x.json")
    assert read_profile(path).slots[1].duration_us == 21.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON, or only part of it"),
        (b"\xff\xfe\x00junk", "not JSON"),
        (b"PK\x03\x04 no JSON", "not JSON"),
        (b"[1, 2", "not JSON, or only part of it"),
        (b"[" * 50_000, "not JSON"),
        (b"[]", "format"),
        (b"[1, 2]", "format"),
        (b"3", "format"),
        (b"null", "format"),
        (b"{}", "format"),
        (b'{"format": 7}', "format"),
        (b'{"weights": [1]}', "format"),
        (b'{"format": "onnx", "version": 1}', "format is 'onnx', expected 'swapplan-"),
        (b'{"format": "swapplan-profile", "version": 1}', ""),
        (b"\x1f\x8b", "damaged"),
        (b"\x1f\x8bno gzip at all, only its first bytes", "damaged"),
        (gzip.compress(b'{"format": "swapplan-profile"}' * 99, mtime=0)[:40], "end too early"),
    ],
)
def test_a_foreign_or_damaged_file(
    tmp_path: Path, failure: Failure, kind: str, data: bytes, message: str
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    refused_everywhere(kind, path, message, failure)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["x.json", "x.json.gz"])
def test_a_truncated_file(tmp_path: Path, failure: Failure, kind: str, name: str) -> None:
    path = tmp_path / name
    write_file(record(kind), path)
    data = path.read_bytes()
    for length in {*range(40), *range(40, len(data), 37), *range(len(data) - 12, len(data))}:
        path.write_bytes(data[:length])
        message = refused(READ[kind], path)
        assert "plan profile" in message or "plan solve" in message
        assert name == "x.json" or length < 3 or "damaged" in message
    for length in (3, 12, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        refused_everywhere(kind, path, "damaged" if name.endswith("gz") else "", failure)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "wrong",
    [
        lambda right: right - 2,
        lambda right: right + 1,
        lambda _: 99,
        lambda _: 0,
        lambda _: -1,
        float,
        lambda _: True,
        str,
        lambda _: None,
    ],
)
def test_another_version(
    tmp_path: Path, failure: Failure, kind: str, wrong: Callable[[int], object]
) -> None:
    path = write_edited(record(kind), {"version": wrong}, tmp_path / "x.json")
    right = record(kind).version
    message = f"version is {wrong(right)!r}, this swapplan reads version {right}"
    refused_everywhere(kind, path, message, failure)


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_or_a_folder(tmp_path: Path, failure: Failure, kind: str) -> None:
    path = tmp_path / "x.json"
    refused_everywhere(kind, path, "there is no such file", failure)
    path.mkdir()
    refused_everywhere(kind, path, "cannot be read (Is a directory)", failure)


@pytest.mark.parametrize(("kind", "other"), [KINDS, KINDS[::-1]])
def test_one_kind_given_for_the_other(
    tmp_path: Path, failure: Failure, kind: str, other: str
) -> None:
    write_file(record(other), tmp_path / "x.json")
    found = refused(READ[kind], tmp_path / "x.json")
    assert f"format is 'swapplan-{other}', expected 'swapplan-{kind}'" in found
    assert failure(*use_of(kind, tmp_path / "x.json")) == f"plan: {found}"
