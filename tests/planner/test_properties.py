"""What holds for every plan, on random profiles."""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from planner import Plan, read_plan, write_plan
from planner.build_plan import Solution, build_plan
from planner.ilp.deadline import SolverName
from planner.plan.plan import Boundary, BoundSource, Proof
from planner.plan.schedule import lower
from planner.plan.simulate import simulate_plan
from planner.problem.problem import problem_of
from planner.problem.settings import SETTINGS
from planner.search.candidate import POLICIES, YIELDING_POLICIES, Candidate, Policy
from planner.search.list_scheduler import schedule_swaps
from planner.search.outlook import Outlook
from planner.solving import solve
from planner.studies.check import check_plan_against
from profiles import Profile, read_profile, write_profile
from profiles.schema.checks import verified
from profiles.schema.errors import BudgetError
from profiles.schema.profile import Link
from tests.support.commands import PATIENCE_S
from tests.support.planning.actions import action
from tests.support.planning.invariants import ROUNDING, check_plan, swaps_of
from tests.support.planning.oracle import idles, smallest_budget_bytes
from tests.support.planning.strategies import jobs, peak_bytes, profiles
from tests.support.planning.toys import transformer_like, unet_like

Job = tuple[Profile, int]
EVERY_POLICY = (*POLICIES, *YIELDING_POLICIES)

few = settings(max_examples=50)
# One folder serves every example: each overwrites the last one's file.
with_folder = settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def plan(profile: Profile, budget_bytes: int, **options: object) -> Plan:
    options = {"min_size_bytes": 1, "time_limit_s": PATIENCE_S, **options}
    return solve(profile, budget_bytes=budget_bytes, **options)  # type: ignore[arg-type]


@given(jobs())
@settings(max_examples=150)
def test_invariants_hold_with_highs(job: Job) -> None:
    profile, budget_bytes = job
    check_plan(plan(profile, budget_bytes), profile)


@given(
    jobs(),
    st.floats(0.4, 1.0),
    st.sampled_from(Boundary),
    st.sampled_from(EVERY_POLICY),
)
@settings(max_examples=200)
def test_the_schedulers_clock_is_the_simulators(
    job: Job, both_share: float, boundary: Boundary, policy: Policy
) -> None:
    profile, budget_bytes = job
    rate = profile.link.d2h_bytes_per_us + profile.link.h2d_bytes_per_us
    problem = problem_of(
        profile,
        budget_bytes=budget_bytes,
        link=profile.link.model_copy(update={"both_bytes_per_us": both_share * rate}),
        host_budget_bytes=None,
        min_size_bytes=1,
        boundary=boundary,
    )
    assume(problem.fits(problem.whole_set))
    candidate = Candidate(problem.whole_set, policy)
    timing = schedule_swaps(problem, candidate)
    with pytest.MonkeyPatch.context() as patched:
        # At anchors that are not looked at for that reason, there was nothing to do.
        patched.setattr(Outlook, "waits_nowhere", lambda outlook, t: False)
        assert schedule_swaps(problem, candidate).swaps == timing.swaps
    swaps = timing.swaps
    proof = (0.0, 0.0, BoundSource.TRIVIAL, Proof.FEASIBLE)
    solution = Solution(problem, timing.chosen, swaps, *proof)
    found = build_plan(profile, solution, solver=SolverName.HIGHS, seconds=0.0)
    stall_us = found.certificate.simulated_stall_us
    assert timing.stall_us == pytest.approx(stall_us, abs=1e-6 * (1 + problem.compute_us))


@given(jobs())
@few
def test_invariants_hold_with_cbc(job: Job) -> None:
    profile, budget_bytes = job
    found = plan(profile, budget_bytes, solver=SolverName.CBC)
    check_plan(found, profile)


@given(jobs())
@few
def test_both_solvers_find_the_same_bound(job: Job) -> None:
    profile, budget_bytes = job
    by_highs, by_cbc = (plan(profile, budget_bytes, solver=solver) for solver in SolverName)
    assert same_bound(by_highs, by_cbc)


@given(jobs(), st.integers(0, 2000))
@settings(max_examples=80)
def test_invariants_hold_with_a_host_budget(job: Job, host_budget_bytes: int) -> None:
    profile, budget_bytes = job
    try:
        found = plan(profile, budget_bytes, host_budget_bytes=host_budget_bytes)
    except BudgetError as error:
        found = plan(profile, error.smallest_budget_bytes, host_budget_bytes=host_budget_bytes)
    check_plan(found, profile)


@pytest.mark.parametrize("profile", [unet_like(3), unet_like(4), transformer_like(4)])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_invariants_hold_on_synthetic_networks(profile: Profile, share: float) -> None:
    smallest = smallest_budget_bytes(profile)
    budget_bytes = smallest + round(share * (peak_bytes(profile) - smallest))
    check_plan(plan(profile, budget_bytes), profile)


def same_bound(one: Plan, other: Plan) -> bool:
    """Whether the loose bounds are one; tight ones may differ by the gap that solvers are given."""
    here, there = one.certificate, other.certificate
    same_loose = here.loose_bound_beyond_us == pytest.approx(
        there.loose_bound_beyond_us, rel=ROUNDING, abs=ROUNDING * (1 + step_us(one))
    )
    unit_us = 0.01 * here.peak_without_bytes / one.link.h2d_bytes_per_us
    slack_us = SETTINGS.mip_gap_units * unit_us + ROUNDING * (1 + step_us(one))
    same_tight = here.bound_beyond_us == pytest.approx(
        there.bound_beyond_us, rel=2 * SETTINGS.mip_gap, abs=slack_us
    )
    return same_loose and same_tight


def step_us(found: Plan) -> float:
    return found.certificate.compute_us + found.certificate.bound_beyond_us


@given(jobs(), st.integers(1, 500))
@few
def test_the_bound_falls_as_the_budget_grows(job: Job, more_bytes: int) -> None:
    profile, budget_bytes = job
    tight, loose = plan(profile, budget_bytes), plan(profile, budget_bytes + more_bytes)
    slack_us = ROUNDING * (1 + step_us(tight))
    least_us = loose.certificate.loose_bound_beyond_us
    assert least_us <= tight.certificate.loose_bound_beyond_us + slack_us


@given(jobs(), st.sampled_from([1.1, 2.0, 10.0]), st.booleans())
@few
def test_the_bound_falls_as_the_link_grows_faster(job: Job, factor: float, out: bool) -> None:
    profile, budget_bytes = job
    rate = "d2h_bytes_per_us" if out else "h2d_bytes_per_us"
    faster_rate = {rate: factor * getattr(profile.link, rate)}
    link = Link.model_validate(profile.link.model_dump() | faster_rate)
    slow, fast = plan(profile, budget_bytes), plan(profile, budget_bytes, link=link)
    assert fast.link == link
    slack_us = ROUNDING * (1 + step_us(slow))
    least_us = fast.certificate.loose_bound_beyond_us
    assert least_us <= slow.certificate.loose_bound_beyond_us + slack_us


@given(jobs(), st.sampled_from([0.2, 0.5, 0.6, 0.9]))
@few
def test_a_joint_rate_only_adds_waits(job: Job, share: float) -> None:
    """Even one below what a direction alone can do, as some hosts show."""
    profile, budget_bytes = job
    rates = profile.link.d2h_bytes_per_us + profile.link.h2d_bytes_per_us
    link = profile.link.model_copy(update={"both_bytes_per_us": share * rates})
    found = plan(profile, budget_bytes, link=link)
    assert check_plan_against(found, profile).mismatches == ()
    alone = found.model_copy(update={"link": profile.link})
    slack_us = ROUNDING * (1 + step_us(found))
    assert simulate_plan(alone).total_stall_us <= found.certificate.simulated_stall_us + slack_us


@given(profiles)
@settings(max_examples=80)
def test_the_smallest_budget_is_met_and_one_byte_less_is_not(profile: Profile) -> None:
    smallest = smallest_budget_bytes(profile)
    assume(smallest > 0)
    check_plan(plan(profile, smallest), profile)
    for budget_bytes in {0, smallest // 2, smallest - 1}:
        with pytest.raises(BudgetError) as refused:
            plan(profile, budget_bytes)
        assert refused.value.smallest_budget_bytes == smallest
        assert "\n" not in str(refused.value)


@given(jobs(), st.integers(0, 1500))
@settings(max_examples=80)
def test_the_smallest_budget_under_a_host_budget(job: Job, host_budget_bytes: int) -> None:
    profile, _ = job
    try:
        plan(profile, 0, host_budget_bytes=host_budget_bytes)
    except BudgetError as error:
        smallest = error.smallest_budget_bytes
    else:
        assume(False)
    check_plan(plan(profile, smallest, host_budget_bytes=host_budget_bytes), profile)
    with pytest.raises(BudgetError) as refused:
        plan(profile, smallest - 1, host_budget_bytes=host_budget_bytes)
    assert refused.value.smallest_budget_bytes == smallest


@given(jobs(), st.randoms(use_true_random=False))
@few
def test_the_order_of_storages_is_of_no_account(job: Job, rng: random.Random) -> None:
    profile, budget_bytes = job
    shuffled = shuffled_storages(profile, rng)
    one, other = plan(profile, budget_bytes), plan(shuffled, budget_bytes)
    check_plan(other, shuffled)
    assert decisions(one) == decisions(other)
    # The order in which copies end decides nothing, but it adds up to other roundings.
    assert other.certificate.simulated_stall_us == pytest.approx(one.certificate.simulated_stall_us)
    assert same_bound(one, other)


def decisions(found: Plan) -> list[tuple[object, ...]]:
    """What moves when, by the names of storages; in the order of names where slots are the same."""
    names = {storage.id: storage.name for storage in found.storages}
    return sorted((*swap[1:], names[swap.storage]) for swap in swaps_of(found))


@given(jobs(), st.sampled_from([2.0**-6, 0.5, 4.0, 2.0**10]))
@few
def test_the_unit_of_time_is_of_no_account(job: Job, factor: float) -> None:
    """Powers of two scale without rounding; only what counts as no time at all stays the same."""
    profile, budget_bytes = job
    scaled = slowed(profile, factor)
    one, other = plan(profile, budget_bytes), plan(scaled, budget_bytes)
    check_plan(other, scaled)
    assert decisions(one) == decisions(other)
    for field in ("compute_us", "simulated_stall_us", "bound_beyond_us"):
        expected_us = factor * getattr(one.certificate, field)
        assert getattr(other.certificate, field) == pytest.approx(expected_us, abs=1e-6), field


def slowed(profile: Profile, factor: float) -> Profile:
    """The same step with all times longer and all rates lower by a factor."""
    content = profile.model_dump()
    for timed in (*content["ops"], *content["slots"]):
        timed["duration_us"] *= factor
    link = content["link"]
    link["latency_us"] *= factor
    for rate in ("d2h_bytes_per_us", "h2d_bytes_per_us"):
        link[rate] /= factor
    return verified(Profile.model_validate(content))


def shuffled_storages(profile: Profile, rng: random.Random) -> Profile:
    order = list(range(len(profile.storages)))
    rng.shuffle(order)
    content = profile.model_dump()
    content["storages"] = tuple(
        content["storages"][old] | {"id": new} for new, old in enumerate(order)
    )
    for slot in content["slots"]:
        slot["shows"] = None if slot["shows"] is None else order.index(slot["shows"])
    return verified(Profile.model_validate(content))


@given(jobs(), st.sampled_from(["x.json", "x.json.gz"]))
@with_folder
def test_files_round_trip(tmp_path: Path, job: Job, name: str) -> None:
    profile, budget_bytes = job
    write_profile(profile, tmp_path / name)
    again = read_profile(tmp_path / name)
    assert again == profile
    assert again.fingerprint() == profile.fingerprint()
    found = plan(profile, budget_bytes)
    write_plan(found, tmp_path / name)
    assert read_plan(tmp_path / name) == found


@given(jobs())
@few
def test_actions_are_read_back_from_their_text(job: Job) -> None:
    schedule = lower(plan(*job))
    for actions in schedule:
        assert tuple(action(str(one)) for one in actions) == actions


@given(jobs(), st.integers(1, 1000))
@few
def test_small_storages_stay(job: Job, min_size_bytes: int) -> None:
    profile, budget_bytes = job
    try:
        found = solve(profile, budget_bytes=budget_bytes, min_size_bytes=min_size_bytes)
    except BudgetError as error:
        found = solve(
            profile, budget_bytes=error.smallest_budget_bytes, min_size_bytes=min_size_bytes
        )
    check_plan(found, profile)
    moved = {swap.storage for swap in found.swaps}
    assert moved <= {i.storage for i in idles(profile) if i.size_bytes >= min_size_bytes}
