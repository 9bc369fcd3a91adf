"""What workers leave each other of a link, by hand, and the options that say so."""

import re
from pathlib import Path

import pytest

from planner.cli.request import PlanRequest, parse_sharing
from planner.plan.plan_file import read_plan
from planner.solving import solve
from planner.studies.check import check_plan_against
from planner.studies.shared_link import (
    Exchange,
    exchanged_bytes,
    host_budget_each_bytes,
    shared_link,
    worker_costs_table,
)
from profiles.hardware.links import CUSTOM, EMULATED, LINK_FACTS, known_sharing, link_named
from profiles.schema.errors import QuantityError
from profiles.schema.link import NOTHING_SHARED, Figure, Sharing
from profiles.schema.profile import LeftOut, Link, Provenance, StorageKind
from profiles.schema.profile_file import read_profile
from runtime.cli import main
from tests.support.planning.toys import fixed, resident, sandwich, toy, toy_link, unet_like


def link(d2h: float = 24.0, h2d: float = 20.0, both: float | None = None) -> Link:
    return toy_link(d2h, h2d).model_copy(update={"both_bytes_per_us": both})


def sharing(switch: int = 1, socket: int = 1, memory: float | None = None) -> Sharing:
    rate = None if memory is None else Figure(bytes_per_us=memory, source="here", verified=True)
    return Sharing(gpus_per_uplink=switch, gpus_per_memory=socket, memory=rate, source="here")


def rates(left: Link) -> tuple[float, float, float | None]:
    return left.d2h_bytes_per_us, left.h2d_bytes_per_us, left.both_bytes_per_us


def left(
    alone: Link, workers: int, what: Sharing, exchange: Exchange | None = None
) -> tuple[float, float, float | None]:
    return rates(shared_link(alone, workers=workers, sharing=what, exchange=exchange))


def test_one_worker_has_the_link_to_itself() -> None:
    alone = link(both=30.0)
    assert shared_link(alone, workers=1, sharing=sharing(2, 4, 10.0)) is alone


def test_a_switch_is_divided_by_the_workers_behind_it_and_no_more() -> None:
    alone = link(both=30.0)
    assert left(alone, 2, sharing(switch=2)) == (12.0, 10.0, 15.0)
    assert left(alone, 3, sharing(switch=4)) == pytest.approx((8.0, 20 / 3, 10.0))
    assert left(alone, 8, sharing(switch=2)) == (12.0, 10.0, 15.0)


def test_directions_that_do_not_slow_each_other_stay_so() -> None:
    assert left(link(), 2, sharing(switch=2)) == (12.0, 10.0, None)


def test_the_memory_of_a_socket_limits_both_directions_together() -> None:
    # 60 of memory for 2 workers: 30 each, which neither direction needs alone, but both do.
    assert left(link(), 2, sharing(socket=2, memory=60.0)) == (24.0, 20.0, 30.0)
    # For 4 workers it is 15 each, for any mixture of directions.
    assert left(link(), 4, sharing(socket=4, memory=60.0)) == (15.0, 15.0, 15.0)
    # A third worker stands on the other socket.
    assert left(link(), 3, sharing(socket=2, memory=60.0)) == (24.0, 20.0, 30.0)
    # Plenty of memory limits nothing.
    assert left(link(), 2, sharing(socket=2, memory=88.0)) == (24.0, 20.0, None)


def test_ring_all_reduce_is_taken_off_the_link_it_crosses() -> None:
    # 2 (4-1)/4 of 100 bytes in 50 us are 3 bytes per us, each way.
    ring = Exchange(gradient_bytes=100, step_us=50.0)
    assert ring.rate_bytes_per_us(4) == 3.0
    assert ring.rate_bytes_per_us(1) == 0.0
    # Each on its own connection: 3 off each direction, 6 off both together.
    assert left(link(both=30.0), 4, sharing(), ring) == (21.0, 17.0, 24.0)
    # Two behind a switch: one hop of the ring enters it and one leaves; the rest is halved.
    assert left(link(both=30.0), 4, sharing(switch=2), ring) == (10.5, 8.5, 12.0)
    # All four behind one switch: no hop crosses it, and a quarter of it is less than the port has.
    assert left(link(both=30.0), 4, sharing(switch=4), ring) == (6.0, 5.0, 7.5)


def test_traffic_both_ways_leaves_no_more_to_one_direction_than_to_both() -> None:
    ring = Exchange(gradient_bytes=100, step_us=10.0)
    # Two workers: 10 bytes per us each way, so 5 of the joint 25 are left, though 24 - 10 is 14.
    assert left(link(both=25.0), 2, sharing(), ring) == (5.0, 5.0, 5.0)


def test_a_link_that_gradients_fill_is_refused() -> None:
    ring = Exchange(gradient_bytes=200, step_us=10.0)
    with pytest.raises(QuantityError, match=r"nothing is left of toy for 2 workers"):
        shared_link(link(), workers=2, sharing=sharing(), exchange=ring)


def test_the_name_says_that_the_link_is_shared_and_measured_rates_become_estimates() -> None:
    measured = link().model_copy(update={"provenance": Provenance.MEASURED})
    ring = Exchange(gradient_bytes=10, step_us=50.0)
    shared = shared_link(measured, workers=2, sharing=sharing(2), exchange=ring)
    assert (shared.name, shared.provenance) == (
        "toy / 2 workers, all-reduce",
        Provenance.ESTIMATED,
    )
    nominal = shared_link(link(), workers=2, sharing=sharing(2))
    assert (nominal.name, nominal.provenance) == ("toy / 2 workers", Provenance.NOMINAL)
    assert nominal.latency_us == link().latency_us


@pytest.mark.parametrize("name", LINK_FACTS)
def test_more_workers_never_leave_more_of_a_link_of_the_table(name: str) -> None:
    what = known_sharing(link_named(name))
    if what is None:
        assert LINK_FACTS[name].sharing is None
        return
    before = rates(link_named(name))
    for workers in range(2, 9):
        after = left(link_named(name), workers, what)
        assert after[0] <= before[0]
        assert after[1] <= before[1]
        assert (after[2] or sum(after[:2])) <= (before[2] or sum(before[:2]))
        before = after


def test_what_is_known_of_sharing() -> None:
    assert known_sharing(EMULATED) is NOTHING_SHARED
    assert known_sharing(toy_link()) is None
    # AC922 with six GPUs: three to a socket, whose memory carries 170 GB/s.
    ac922 = link_named("nvlink2-ac922-6gpu")
    what = known_sharing(ac922)
    assert what is not None
    assert left(ac922, 6, what) == pytest.approx((45_900.0, 45_900.0, 170_000 / 3))


def test_a_host_is_divided_by_its_workers() -> None:
    assert host_budget_each_bytes(1001, 4) == 250
    assert host_budget_each_bytes(None, 4) is None


def test_what_is_exchanged_are_the_buckets_if_there_are_any_and_else_the_gradients() -> None:
    gradients = [
        resident("grad:a", 40, 0, kind=StorageKind.GRADIENT),
        resident("grad:b", 20, 0, kind=StorageKind.GRADIENT),
        resident("parameter:a", 40, 0),
    ]
    assert exchanged_bytes(toy(1.0, storages=gradients)) == 60
    bucket = fixed("op:0", 64, 0, left_out=LeftOut.EXCHANGED)
    assert exchanged_bytes(toy(1.0, storages=[*gradients, bucket])) == 64


def test_the_same_plan_waits_longer_with_more_workers() -> None:
    plan = solve(sandwich(), budget_bytes=105)
    # 50 bytes each way at 0.04 bytes per us: 1250 us, of which a slot hides 1000.
    slow = link(d2h=0.04, h2d=0.04)
    costs = worker_costs_table(plan, slow, sharing(switch=4))
    assert costs["workers"].to_list() == [1, 2, 4, 8]
    assert costs["stall_us"].to_list() == pytest.approx([500.0, 3000.0, 8000.0, 8000.0])
    assert costs["step_us"].to_list() == pytest.approx([5500.0, 8000.0, 13_000.0, 13_000.0])
    assert costs["host_pool_bytes"].to_list() == [50, 100, 200, 400]


def test_a_number_of_workers_whose_gradients_fill_the_link_has_no_cost() -> None:
    plan = solve(sandwich(), budget_bytes=105)
    ring = Exchange(gradient_bytes=10_000, step_us=5000.0)
    costs = worker_costs_table(plan, link(d2h=2.5, h2d=2.5), sharing(), ring)
    assert costs["stall_us"].isna().to_list() == [False, False, True, True]


def test_more_workers_only_raise_the_bound_and_their_plans_check() -> None:
    alone, what = link(d2h=2.0, h2d=2.0, both=3.0), sharing(switch=2, socket=4, memory=3.0)
    profile = unet_like(3, link=alone)
    bounds_us = []
    for workers in (1, 2, 4):
        shared = shared_link(alone, workers=workers, sharing=what)
        plan = solve(profile, budget_bytes=2900, link=shared, min_size_bytes=1)
        assert plan.link == shared
        assert check_plan_against(plan, profile).mismatches == ()
        bounds_us.append(plan.certificate.bound_beyond_us)
    assert 0 < bounds_us[0] < bounds_us[1] < bounds_us[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nothing", NOTHING_SHARED),
        ("switch=2", (2, 2, None)),
        ("switch=2, socket=4", (2, 4, None)),
        ("socket=4,memory=200GB/s", (1, 4, 200_000.0)),
        ("nvlink2-ac922-6gpu", (1, 3, 170_000.0)),
    ],
)
def test_the_option_says_what_is_shared(
    text: str, expected: Sharing | tuple[int, int, float | None]
) -> None:
    what = parse_sharing(text)
    if isinstance(expected, Sharing):
        assert what is expected
    else:
        rate = what.memory.bytes_per_us if what.memory else None
        assert (what.gpus_per_uplink, what.gpus_per_memory, rate) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "all",
        "switch",
        "switch=0",
        "switch=-1",
        "switch=2,switch=4",
        "sockt=4",
        "2,4",
        "cpu-emulatd",
    ],
)
def test_an_option_that_says_nothing_clear_is_refused(text: str) -> None:
    with pytest.raises(QuantityError, match="expected 'nothing', a link of which it is known"):
        parse_sharing(text)


def test_a_rate_of_memory_needs_the_gpus_that_share_it() -> None:
    with pytest.raises(QuantityError, match="Add such as socket=4"):
        parse_sharing("memory=200GB/s")


@pytest.mark.usefixtures("wide_tables")
def test_solve_plans_for_workers(profile_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = profile_file.with_name("toy.plan.json")
    asked = ("--workers", "2", "--share", "switch=2", "--host-budget", "101")
    assert main(["solve", str(profile_file), "--budget", "70%", "-o", str(output), *asked]) == 0
    plan = read_plan(output)
    assert plan.link == shared_link(sandwich().link, workers=2, sharing=sharing(2))
    assert plan.host_budget_bytes == 50
    printed = capsys.readouterr().out
    assert re.search(r"2 │ +500\.00 kB/s │ +500\.00 kB/s │ +│ +0 us │ +5\.0 ms │ +100 B", printed)
    assert "taken to go another way between the workers than this link" in printed
    assert "recorded without DistributedDataParallel" in printed


def test_solve_asks_what_is_shared_where_it_is_not_known(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = profile_file.with_name("toy.plan.json")
    assert main(["solve", str(profile_file), "--budget", "70%", "-o", str(output)]) == 0
    assert "What more workers would share on link toy is not known" in capsys.readouterr().out
    asked = ("--workers", "2")
    assert main(["solve", str(profile_file), "--budget", "70%", "-o", str(output), *asked]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("plan: what 2 workers share on link toy is not known. Say it")


def test_solve_says_where_workers_share_nothing(
    profile_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = profile_file.with_name("toy.plan.json")
    asked = ("--link", "cpu-emulated")
    assert main(["solve", str(profile_file), "--budget", "70%", "-o", str(output), *asked]) == 0
    assert "Workers share nothing on link cpu-emulated" in capsys.readouterr().out


def test_the_profile_says_what_is_shared_of_its_own_link() -> None:
    """Of another link the table does, if it can; of one whose rates the user gave nothing does."""
    own, what = link(), sharing(switch=2, socket=4)
    custom = link().model_copy(update={"name": CUSTOM})
    profile = toy(1.0, storages=[], link=own).model_copy(update={"sharing": what})
    found = {
        alone.name: PlanRequest(share=share).workers_on(profile, alone, 2).sharing
        for alone, share in (
            (own, None),
            (link_named("nvlink2-ac922-6gpu"), None),
            (link_named("pcie4-x16"), "nothing"),
        )
    }
    assert found == {
        own.name: what,
        "nvlink2-ac922-6gpu": LINK_FACTS["nvlink2-ac922-6gpu"].sharing,
        "pcie4-x16": NOTHING_SHARED,
    }
    with pytest.raises(QuantityError, match="is not known"):
        PlanRequest().workers_on(profile, custom, 2)


@pytest.mark.usefixtures("wide_tables")
def test_a_profile_carries_what_the_table_says_of_its_link(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, words = tmp_path / "gpt2.profile.json", ["--set", "size=tiny", "--set", "sequence=8"]
    device = ["--device", "v100-16gb", "--link", "nvlink2-ac922-4gpu"]
    assert main(["profile", "gpt2", *words, *device, "-o", str(path)]) == 0
    assert read_profile(path).sharing == LINK_FACTS["nvlink2-ac922-4gpu"].sharing
    assert "a link each, 2 to a socket, memory 170.00 GB/s" in capsys.readouterr().out
