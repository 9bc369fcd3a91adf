"""The tables behind `plan show`, on a step worked out by hand."""

import re

import pytest

from planner.cli.show import print_plan
from planner.report.plots import memory_figure, png_bytes
from planner.report.tables import (
    kinds_table,
    left_out_table,
    memory_table,
    peak_overhead_bytes,
    rebuilds_table,
    storages_table,
    swaps_table,
)
from planner.solving import solve
from profiles.schema.profile import Provenance, StorageKind
from tests.support.planning.rebuilt import mixed_plan, rebuilt_sandwich
from tests.support.planning.toys import activation, fixed, resident, sandwich, toy


def test_kinds_count_what_is_alive_at_the_peak() -> None:
    profile = toy(
        1.0,
        1.0,
        1.0,
        storages=[
            resident("parameter:w", 7, 0, 2),
            activation("pack:0", 50, 0, 2),
            activation("pack:1", 20, 1, 2),
            fixed("op:0", 60, 0),
            fixed("op:1", 30, 1),
        ],
    )
    kinds = kinds_table(profile)
    # At op 0: 7 + 50 + 60; at op 1: 7 + 50 + 20 + 30; at op 2: 7 + 50 + 20.
    assert kinds["peak_bytes"].to_dict() == {"temporary": 60, "activation": 50, "parameter": 7}
    assert kinds["peak_bytes"].sum() == memory_table(profile)["without_bytes"].max() == 117
    assert kinds["size_bytes"].to_dict() == {"activation": 70, "parameter": 7, "temporary": 90}
    assert kinds["left_out_bytes"].to_dict() == {"activation": 0, "parameter": 0, "temporary": 90}
    assert list(kinds.index) == ["temporary", "activation", "parameter"]
    assert storages_table(profile)["at_peak"].to_list() == [True, True, False, True, False]
    left_out = left_out_table(profile)
    assert left_out.index.to_list() == [("no anchor shows it", "temporary")]
    assert left_out[["storages", "size_bytes", "peak_bytes"]].to_numpy().tolist() == [[2, 90, 60]]


def test_the_peak_counts_what_the_device_needs_beyond_storages() -> None:
    storages = [activation("pack:0", 50, 0, 1), fixed("op:1", 30, 1)]
    profile = toy(1.0, 1.0, storages=storages, overheads_bytes=[40, 5, 0])
    # Op 0 needs 50 + 40, op 1 needs 50 + 30 + 5.
    assert peak_overhead_bytes(profile) == 40
    peak_bytes = kinds_table(profile)["peak_bytes"].sum() + peak_overhead_bytes(profile)
    assert peak_bytes == memory_table(profile)["without_bytes"].max() == 90
    assert storages_table(profile)["at_peak"].to_list() == [True, False]


def test_memory_over_the_step_without_and_with_the_plan() -> None:
    plan = solve(sandwich(), budget_bytes=105)
    memory = memory_table(plan)
    assert memory["start_us"].to_list() == [0.0, 1000.0, 2000.0, 3000.0, 4000.0, 5000.0]
    assert memory["without_bytes"].to_list() == [50, 50, 150, 50, 50, 0]
    assert memory["with_bytes"].max() == 100
    assert memory["with_bytes"][2] == 100
    assert memory_table(sandwich())["without_bytes"].to_list() == [50, 50, 150, 50, 50, 0]


def test_memory_falls_where_storages_are_dropped() -> None:
    memory = memory_table(rebuilt_sandwich())
    assert memory["without_bytes"].to_list() == [50, 50, 150, 50, 50, 0]
    assert memory["with_bytes"].to_list() == [50, 0, 100, 0, 50, 0]
    assert memory["recompute_us"].to_list() == [0, 0, 0, 0, 1000.0, 0]


def test_what_is_rebuilt_and_how() -> None:
    table = rebuilds_table(mixed_plan())
    assert table["name"].to_list() == ["pack:2", "pack:0"]
    assert table["ops"].to_list() == ["op2", "op0"]
    assert table["recompute_us"].to_list() == [10.0, 10.0]
    anchors = table[["dropped", "rebuilt"]].to_numpy().tolist()
    assert anchors == [["anchor:3", "anchor:5"], ["anchor:1", "anchor:7"]]
    assert rebuilds_table(solve(sandwich(), budget_bytes=105)).empty


def test_slack_is_how_long_before_it_is_asked_for_a_copy_is_over() -> None:
    swap = swaps_table(solve(sandwich(), budget_bytes=105)).iloc[0]
    assert (swap["name"], swap["kind"], swap["size_bytes"]) == ("pack:0", "activation", 50)
    assert (swap["swap_out"], swap["release"]) == ("anchor:1", "anchor:2")
    assert (swap["swap_in"], swap["await"]) == ("anchor:3", "anchor:4")
    # A copy takes 50 us and has one slot of 1000 us, out and in.
    assert swap["out_slack_us"] == pytest.approx(950.0)
    assert swap["in_slack_us"] == pytest.approx(950.0)


def test_negative_slack_is_what_compute_waits() -> None:
    profile = sandwich()
    slow = profile.link.model_copy(update={"d2h_bytes_per_us": 0.01})
    plan = solve(profile, budget_bytes=105, link=slow)
    slack_us = swaps_table(plan)["out_slack_us"].iloc[0]
    # 5000 us, of which one slot hides 1000.
    assert slack_us == pytest.approx(-4000.0)
    assert plan.certificate.simulated_stall_us == pytest.approx(-slack_us)


def test_tables_of_nothing_are_empty_tables() -> None:
    empty = toy(1.0, storages=[])
    assert storages_table(empty).empty
    assert kinds_table(empty).empty
    assert left_out_table(empty).empty
    assert swaps_table(solve(sandwich(), budget_bytes=1000)).empty
    assert peak_overhead_bytes(toy(1.0, storages=[], ops=[0])) == 0


def test_a_figure_names_its_axes_with_units() -> None:
    figure = memory_figure(memory_table(sandwich()), title="toy", times=Provenance.MEASURED)
    axes = figure.axes[0]
    assert axes.get_ylabel() == "resident device memory, bytes"
    assert axes.get_xlabel() == "time in the step, ms (measured)"
    [label] = figure.legends[0].get_texts()
    assert label.get_text() == "without a plan: peak 150.00 bytes"
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_every_kind_of_storage_has_a_row() -> None:
    kinds = tuple(StorageKind)
    storages = [resident(f"{kind}:0", 1 + i, 0, kind=kind) for i, kind in enumerate(kinds)]
    table = kinds_table(toy(1.0, storages=storages))
    assert table["storages"].to_dict() == {kind.value: 1 for kind in kinds}


def test_what_is_rebuilt_is_read_at_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("planner.cli.output.PIPED_WIDTH", 80)
    print_plan(mixed_plan(), top=5)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert re.search(r"dropped and rebuilt +│ +2 \(100 B, by 2 ops\)", printed)
    assert re.search(r"pack:2 +│ +50 B │ +10 us │ anchor:3 +│ anchor:5 +│ op2 +│", printed)
    print_plan(rebuilt_sandwich(), top=0)
    alone = capsys.readouterr().out
    assert re.search(r"may not use +│ +nothing", alone)
    assert "fits within the budget" not in alone
