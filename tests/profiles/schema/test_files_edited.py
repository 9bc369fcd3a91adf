"""Profile and plan files edited by hand: refused, in one line that names the place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.plan.plan import read_plan
from profiles.schema.profile import SlotTimes
from profiles.schema.profile_file import read_profile
from tests.support.planning.mutations import Mutation, apply, mutations
from tests.support.planning.saved import (
    KINDS,
    PROFILE,
    READ,
    content_of,
    plan_of_it,
    record,
    refusal,
    refused,
    write_json,
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_mutated(tmp_path: Path, kind: str) -> None:
    content, path = content_of(record(kind)), tmp_path / "x.json"
    tried = 0
    accepted, unnamed = [], []
    for mutation in mutations(content):
        write_json(apply(content, mutation), path)
        message = refusal(READ[kind], path)
        if message is None:
            accepted.append(str(mutation))
        elif mutation.field not in message:
            unnamed.append(f"{mutation}: {message}")
        tried += 1
    assert tried > 300
    assert not accepted
    assert not unnamed


def at(*place: str | int, value: object) -> Mutation:
    return Mutation(place, value)


@pytest.mark.parametrize(
    "mutation",
    [
        at("ops", 2, "slot", value=5),
        at("ops", 2, "slot", value=0),
        at("slots", 1, "shows", value=5),
        at("slots", 2, "anchor", value="anchor:1"),
        at("slots", 0, "anchor", value="start"),
        at("slots", -1, "anchor", value="stop"),
        at("slots", -1, "duration_us", value=3.0),
        at("storages", 1, "id", value=2),
        at("storages", 1, "name", value="pack:0"),
        at("storages", 1, "name", value=""),
        at("storages", 1, "kind", value="weight"),
        at("storages", 1, "left_out", value="no anchor shows it"),
        at("storages", 1, "left_out", value="no reason"),
        at("storages", 1, "allocated_op", value=99),
        at("storages", 1, "released_op", value=0),
        at("storages", 1, "released_op", value=5),
        at("storages", 1, "shown_at", value=6),
        at("storages", 1, "shown_at", value=3),
        at("storages", 1, "shown_at", value=None),
        at("storages", 1, "uses", 0, "op", value=4),
        at("storages", 1, "uses", 0, "access", value="touch"),
        at("link", "d2h_bytes_per_us", value=0),
        at("link", "provenance", value="guessed"),
    ],
    ids=str,
)
def test_profile_edited(tmp_path: Path, mutation: Mutation) -> None:
    path = tmp_path / "x.json"
    write_json(apply(content_of(PROFILE), mutation), path)
    message = refused(read_profile, path)
    assert "plan profile" in message
    assert str(mutation.value) in message or f"[{mutation.place[1]}]" in message


def test_slots_that_are_not_the_sum_of_their_ops(tmp_path: Path) -> None:
    """Only where the profile says that they are: from anchor to anchor there is more than ops."""
    content, path = content_of(PROFILE), tmp_path / "x.json"
    content["slots"][1]["duration_us"] += 1.0
    write_json(content, path)
    assert read_profile(path).slots[1].duration_us == 21.0
    content["slot_times"] = SlotTimes.SUM_OF_OPS.value
    write_json(content, path)
    assert "slots[1].duration_us is 21.0, expected 20.0" in refused(read_profile, path)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("storage", 50),
        ("swap_out_slot", 50),
        ("release_slot", 50),
        ("swap_in_slot", 50),
        ("await_slot", 50),
        ("host_offset_bytes", 1),
        ("host_offset_bytes", 10**30),
    ],
)
def test_a_swap_edited(tmp_path: Path, field: str, change: int) -> None:
    content, path = content_of(plan_of_it()), tmp_path / "x.json"
    content["swaps"][0][field] += change
    write_json(content, path)
    message = refused(read_plan, path)
    assert "swaps[0]" in message or "host_" in message or "slots[" in message
    assert "plan solve" in message


@pytest.mark.parametrize(
    "field",
    [
        "peak_without_bytes",
        "peak_bytes",
        "d2h_bytes",
        "h2d_bytes",
        "compute_us",
        "simulated_stall_us",
    ],
)
def test_a_certificate_edited(tmp_path: Path, field: str) -> None:
    content, path = content_of(plan_of_it()), tmp_path / "x.json"
    content["certificate"][field] += 1
    write_json(content, path)
    assert f"certificate.{field}" in refused(read_plan, path)


def test_a_bound_above_the_simulation(tmp_path: Path) -> None:
    content, path = content_of(plan_of_it()), tmp_path / "x.json"
    content["certificate"]["bound_stall_us"] = 1e6
    write_json(content, path)
    assert "certificate.bound_stall_us" in refused(read_plan, path)


def edited_plan(tmp_path: Path, edit: Callable[[Any], None]) -> str:
    content, path = content_of(plan_of_it()), tmp_path / "x.json"
    edit(content)
    write_json(content, path)
    return refused(read_plan, path)


def test_a_plan_that_breaks_its_budget(tmp_path: Path) -> None:
    message = edited_plan(tmp_path, lambda plan: plan.update(budget_bytes=3))
    assert "budget_bytes" in message
    assert "slots[" in message
    message = edited_plan(tmp_path, lambda plan: plan.update(host_budget_bytes=0))
    assert "host_budget_bytes" in message
    message = edited_plan(tmp_path, lambda plan: plan.update(host_pool_bytes=0))
    assert "host_pool_bytes" in message


def test_a_plan_without_its_swaps(tmp_path: Path) -> None:
    def stay(plan: Any) -> None:
        plan.update(swaps=[], host_pool_bytes=0)

    assert "budget_bytes" in edited_plan(tmp_path, stay)


def test_a_swap_given_twice(tmp_path: Path) -> None:
    def double(plan: Any) -> None:
        plan["swaps"].insert(0, plan["swaps"][0])

    assert "swaps[1]" in edited_plan(tmp_path, double)


def test_an_activation_moved_before_it_is_shown(tmp_path: Path) -> None:
    """An activation is known to the runtime only from the anchor that shows it on."""

    def hide(plan: Any) -> None:
        names = {s["id"]: s["name"] for s in plan["storages"]}
        moved = next(s["storage"] for s in plan["swaps"] if names[s["storage"]].startswith("pack:"))
        for slot in plan["slots"]:
            slot["shows"] = None if slot["shows"] == moved else slot["shows"]

    assert "which no anchor shows" in edited_plan(tmp_path, hide)


def test_text_with_line_breaks_stays_on_one_line(tmp_path: Path) -> None:
    def break_lines(plan: Any) -> None:
        for slot in plan["slots"][1:-1]:
            slot["anchor"] += "\nsecond line"
        for storage in plan["storages"]:
            storage["name"] += "\nsecond line"
        plan["budget_bytes"] = plan["certificate"]["peak_bytes"] - 1

    edited_plan(tmp_path, break_lines)
