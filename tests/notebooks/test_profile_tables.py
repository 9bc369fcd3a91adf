"""What `notebooks/read_a_profile.ipynb` shows, on steps worked out by hand."""

import pandas as pd
import pytest

from analysis.idle_gaps import hidden_swaps_table, idle_gaps_table
from analysis.kind_memory import OVERHEAD, kind_memory_table
from analysis.lifetimes import idle_kinds_table, lifetimes_table, uses_table
from analysis.modules import (
    ELSEWHERE,
    module_bytes_table,
    module_times_table,
    operator_times_table,
    slot_modules_table,
)
from analysis.profile_plots import (
    idle_gaps_figure,
    kind_memory_figure,
    lifetimes_figure,
    modules_figure,
)
from planner.report.plots import png_bytes
from profiles.schema.memory import slot_memory
from profiles.schema.profile import Profile, Provenance, StorageKind
from tests.support.planning.figures import words_of
from tests.support.planning.toys import (
    activation,
    fixed,
    gradient,
    resident,
    toy,
    toy_link,
    transformer_like,
    unet_like,
)


def two_layers() -> Profile:
    """Forward of `enc.a` and `dec`, backward of both, and the update of a parameter of `enc.a`."""
    profile = toy(
        1.0,
        10.0,
        0.0,
        20.0,
        0.0,
        40.0,
        30.0,
        5.0,
        2.0,
        storages=[
            resident("parameter:enc.a.weight", 7, 1, 8),
            activation("pack:0", 50, 1, 6, shown_at=2),
            activation("pack:1", 60, 3, 5, shown_at=4),
            gradient("grad:enc.a.weight", 7, 6, 8),
            fixed("op:5", 100, 5),
        ],
    )
    anchors = [
        "begin",
        "pre:enc.a",
        "pack:0",
        "pre:dec",
        "pack:1",
        "unpack:1",
        "unpack:0",
        "grad:enc.a.weight",
        "update:enc.a.weight",
        "end",
    ]
    slots = [
        slot.model_copy(update={"anchor": anchor})
        for slot, anchor in zip(profile.slots, anchors, strict=True)
    ]
    return profile.model_copy(update={"slots": tuple(slots)})


def test_a_slot_belongs_to_the_module_whose_work_it_is() -> None:
    slots = slot_modules_table(two_layers())
    assert slots["module"].to_list() == [
        ELSEWHERE,
        "enc.a",
        "enc.a",
        "dec",
        "dec",
        "dec",
        "enc.a",
        "enc.a",
        "enc.a",
        "enc.a",
    ]
    assert slots["phase"].to_list() == ["forward"] * 5 + ["backward"] * 3 + ["optimizer"] * 2


def test_times_of_modules_add_up_to_the_step() -> None:
    times = module_times_table(two_layers(), depth=1)
    assert times.loc["enc"].to_dict() == {
        "forward": 10.0,
        "backward": 35.0,
        "optimizer": 2.0,
        "all": 47.0,
    }
    assert times.loc["dec"].to_dict() == {
        "forward": 20.0,
        "backward": 40.0,
        "optimizer": 0.0,
        "all": 60.0,
    }
    assert times.index.to_list() == ["dec", "enc", ELSEWHERE]
    assert times["all"].sum() == two_layers().step_us
    assert "enc.a" in module_times_table(two_layers(), depth=2).index


def test_an_anchor_that_comes_again_belongs_to_the_same_module() -> None:
    profile = two_layers()
    again = profile.slots[3].model_copy(update={"anchor": "pre:enc.a#1"})
    slots = (*profile.slots[:3], again, *profile.slots[4:])
    modules = slot_modules_table(profile.model_copy(update={"slots": slots}))["module"]
    assert modules[3] == "enc.a"


def test_bytes_at_the_peak_belong_to_the_module_that_touched_them_first() -> None:
    held = module_bytes_table(two_layers(), depth=1)
    # The peak is at slot 5, where the workspace is.
    assert held.loc["enc"].to_dict() == {
        "parameter": 7,
        "activation": 50,
        "temporary": 0,
        "all": 57,
    }
    assert held.loc["dec"].to_dict() == {
        "parameter": 0,
        "activation": 60,
        "temporary": 100,
        "all": 160,
    }
    assert held["all"].sum() == two_layers().peak_bytes


def test_operators_are_counted_by_name() -> None:
    profile = toy(3.0, 5.0, storages=[])
    ops = [op.model_copy(update={"name": "aten.mm.default"}) for op in profile.ops]
    table = operator_times_table(profile.model_copy(update={"ops": tuple(ops)}))
    assert table.loc["aten.mm.default"].to_dict() == {"calls": 2, "duration_us": 8.0, "share": 1.0}


def test_kinds_of_a_slot_stand_where_it_needs_the_most() -> None:
    profile = toy(
        1.0,
        1.0,
        storages=[
            activation("pack:0", 50, 0, 3),
            fixed("op:1", 30, 1),
            fixed("op:2", 90, 2),
            resident("parameter:w", 7, 3),
        ],
        ops=[3, 1],
        overheads_bytes=[4, 5, 0],
    )
    memory = kind_memory_table(profile)
    # Slot 0 needs the most at its third op.
    assert memory.loc[0, ["parameter", "activation", "temporary", OVERHEAD]].to_list() == [
        7,
        50,
        90,
        4,
    ]
    assert memory.loc[1, ["parameter", "activation", "temporary", OVERHEAD]].to_list() == [
        7,
        50,
        0,
        5,
    ]
    assert memory["start_us"].to_list() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "profile",
    [
        two_layers(),
        unet_like(4),
        transformer_like(4),
        toy(1.0, 1.0, 1.0, storages=[activation("pack:0", 9, 0, 1)], ops=[1, 0, 1]),
        toy(1.0, storages=[resident("parameter:w", 3)], ops=[0]),
    ],
    ids=["two layers", "unet", "transformer", "a slot without ops", "no ops"],
)
def test_kinds_add_up_to_what_a_slot_needs(profile: Profile) -> None:
    memory = kind_memory_table(profile).drop(columns="start_us")
    assert memory.sum(axis=1).to_list() == [slot.resident_bytes for slot in slot_memory(profile)]


def test_a_life_is_used_and_idle_time() -> None:
    profile = toy(
        10.0,
        20.0,
        30.0,
        40.0,
        storages=[
            activation("pack:0", 50, 0, 3),
            resident("parameter:w", 10, 1, 2),
            resident("parameter:never", 1),
        ],
    )
    lives = lifetimes_table(profile)
    columns = ["born_us", "gone_us", "used_us", "idle_us", "longest_idle_us"]
    assert lives.loc[0, columns].to_list() == [0.0, 100.0, 50.0, 50.0, 50.0]
    # From its last use the step goes on to its first: 40 us and 10 us.
    assert lives.loc[1, columns].to_list() == [0.0, 100.0, 50.0, 50.0, 50.0]
    assert lives.loc[2, columns].to_list() == [0.0, 100.0, 0.0, 100.0, 100.0]
    whole = (50 + 10 + 1) * 100.0
    assert lives["idle_byte_share"].to_list() == pytest.approx(
        [50 * 50 / whole, 10 * 50 / whole, 100 / whole]
    )


def test_ops_fill_their_slot_in_proportion() -> None:
    profile = toy(30.0, storages=[activation("pack:0", 50, 0, 1)], ops=[3])
    ops = [
        op.model_copy(update={"duration_us": us})
        for op, us in zip(profile.ops, (1.0, 1.0, 4.0), strict=True)
    ]
    uses = uses_table(profile.model_copy(update={"ops": tuple(ops)}), [0])
    assert uses["start_us"].to_list() == [0.0, 5.0]
    assert uses["end_us"].to_list() == [5.0, 10.0]
    assert uses["writes"].to_list() == [True, False]


def test_idle_shares_of_kinds() -> None:
    profile = toy(1e6, 1e6, storages=[activation("pack:0", 50, 0, 1), resident("parameter:w", 4)])
    kinds = idle_kinds_table(lifetimes_table(profile))
    assert kinds.loc["activation"].to_dict() == {
        "storages": 1,
        "size_bytes": 50,
        "held_byte_s": 100.0,
        "idle_share": 0.0,
    }
    assert kinds.loc["parameter", ["held_byte_s", "idle_share"]].to_list() == [8.0, 1.0]


def test_a_trip_is_hidden_if_the_gap_is_as_long() -> None:
    profile = toy(
        10.0,
        100.0,
        50.0,
        10.0,
        storages=[activation("pack:0", 30, 0, 3), activation("pack:1", 40, 1, 3)],
    )
    links = [
        toy_link(),
        toy_link(10.0, 2.0, latency_us=1.0).model_copy(update={"name": "fast"}),
    ]
    gaps = idle_gaps_table(profile, links)
    assert gaps["name"].to_list() == ["pack:0", "pack:1"]
    assert gaps["idle_us"].to_list() == [150.0, 50.0]
    assert gaps["toy_us"].to_list() == [60.0, 80.0]
    assert gaps["fast_us"].to_list() == [1.0 + 3.0 + 1.0 + 15.0, 1.0 + 4.0 + 1.0 + 20.0]
    hidden = hidden_swaps_table(gaps, links)
    assert hidden["long_enough"].to_dict() == {"toy": 1, "fast": 2}
    assert hidden["long_enough_bytes"].to_dict() == {"toy": 30, "fast": 70}


def test_what_lives_from_step_to_step_is_idle_round_the_boundary() -> None:
    kept = resident("state:w", 30, 1, kind=StorageKind.OPTIMIZER_STATE, writes=[1])
    gaps = idle_gaps_table(toy(10.0, 20.0, 40.0, storages=[kept]), [toy_link()])
    assert gaps["idle_us"].to_list() == [50.0]


@pytest.mark.parametrize("times", [Provenance.MEASURED, Provenance.ESTIMATED])
def test_pictures_say_units_and_where_times_come_from(times: Provenance) -> None:
    profile = two_layers()
    lives = lifetimes_table(profile)
    links = [toy_link()]
    figures = [
        kind_memory_figure(
            kind_memory_table(profile), title="step", times=times, capacity_bytes=200
        ),
        modules_figure(
            module_times_table(profile, depth=1),
            module_bytes_table(profile, depth=1),
            title="step",
            times=times,
        ),
        lifetimes_figure(lives, uses_table(profile, lives.index), title="step", times=times),
        idle_gaps_figure(idle_gaps_table(profile, links), links, title="step", times=times),
    ]
    for figure in figures:
        assert png_bytes(figure)
        assert f", us ({times.value}" in words_of(figure)
        assert "bytes" in words_of(figure)
    assert "device: 200.00 bytes" in words_of(figures[0])
    assert "optimizer" in words_of(figures[1])
    assert "pack:0  enc.a  50.00 bytes" in words_of(figures[2])
    assert "out and back, toy" in words_of(figures[3])


def test_tables_of_nothing_are_empty_tables() -> None:
    empty = toy(1.0, storages=[], ops=[0])
    tables: list[pd.DataFrame] = [
        operator_times_table(empty),
        lifetimes_table(empty),
        idle_kinds_table(lifetimes_table(empty)),
        idle_gaps_table(empty, [toy_link()]),
        module_bytes_table(empty, depth=1),
    ]
    assert all(table.empty for table in tables)
