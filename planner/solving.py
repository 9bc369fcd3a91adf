"""From a profile and a budget to a plan: the bound, the ILP, the search, the certificate."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

from planner.build_plan import Solution, build_plan
from planner.ilp.deadline import Deadline, Incumbent, OnIncumbent, SolverName, never
from planner.ilp.model import build
from planner.ilp.solver import NO_BOUND, StallBound, relaxed_bound, solve_model, whole_bound
from planner.ilp.variables import Goal
from planner.plan.lanes import SAME_US
from planner.plan.plan import Boundary, BoundSource, Plan, Proof, Without
from planner.problem.problem import Problem, problem_like, problem_of
from planner.problem.settings import SETTINGS, WITHOUT_BY_DEFAULT
from planner.problem.timed_swap import TimedSwap
from planner.recompute.offers import NO_OFFERS, Offers, offers_of
from planner.recompute.places import placed_offers
from planner.recompute.recipes import StepEffects
from planner.recompute.rewriting import Dropped, recomputed
from planner.recompute.rewritten_problem import ProblemRewriter
from planner.search.candidate import POLICIES, QUICK_POLICIES, Candidate
from planner.search.drop_search import Draft, DropSearch
from planner.search.local_search import Search
from planner.search.relief import relieving_sets
from planner.search.starts import (
    Start,
    groups_to_leave,
    published_drops_of,
    published_starts,
    starting_sets,
)
from planner.smallest_budget import (
    UnmetBudgetError,
    Widest,
    check_budget,
    unmet_budget,
    widest_set,
)
from profiles.schema.errors import BudgetError
from profiles.schema.profile import Link, Profile
from profiles.schema.progress import Progress, silent

STAGES = 3


def solve(
    profile: Profile,
    *,
    budget_bytes: int,
    link: Link | None = None,
    host_budget_bytes: int | None = None,
    solver: SolverName = SolverName.HIGHS,
    time_limit_s: float = 60.0,
    min_size_bytes: int | None = None,
    boundary: Boundary = Boundary.PERIODIC,
    without: Without = WITHOUT_BY_DEFAULT,
    progress: Progress | None = None,
    on_incumbent: OnIncumbent | None = None,
    stop: Callable[[], bool] = never,
) -> Plan:
    """Plans a step for a budget.

    Args:
        profile: The step.
        budget_bytes: Device bytes to stay within.
        link: The link to plan for; the profile's if None.
        host_budget_bytes: Host bytes to stay within; None for no limit, 0 for no swaps.
        solver: Which solver PuLP drives.
        time_limit_s: Wall time for the whole of it; what is needed for any plan at all may exceed
            it. After 15 s for 1,000 ops planning goes on only while the plan is more than 1% of
            the step from its bound (`planner.problem.settings`).
        min_size_bytes: Smaller storages stay; if None, what is left out is little of the budget
            (`planner.problem.smallest_size`).
        boundary: Whether swaps may wrap round the step boundary.
        without: What is not to be used: swaps, or dropping storages and running ops again.
        progress: Called with how far it is.
        on_incumbent: Called with every better plan and bound.
        stop: Asked often; once it says so, the best plan so far is returned.

    Returns:
        A verified plan; an empty one if the step fits the budget as it is.

    Raises:
        BudgetError: The budget cannot be met; it carries the smallest that can.
        SolverError: The solver is missing or failed.
    """
    started_s = time.monotonic()
    problem = problem_of(
        profile,
        budget_bytes=budget_bytes,
        link=link or profile.link,
        host_budget_bytes=0 if without is Without.SWAP else host_budget_bytes,
        min_size_bytes=min_size_bytes,
        boundary=boundary,
    )
    deadline = Deadline(started_s + time_limit_s, stop)
    work = _Work(profile, problem, solver, deadline, progress or silent, on_incumbent)
    solution = _solved_in_rounds(work, without)
    seconds = time.monotonic() - started_s
    return build_plan(profile, solution, solver=solver, seconds=seconds, without=without)


def _solved_in_rounds(work: "_Work", without: Without) -> Solution:
    """A quick round; one with all the time that is left only if that one may gain by it."""
    quick_s = SETTINGS.quick_seconds * max(1.0, len(work.profile.ops) / 1000)
    if quick_s > SETTINGS.quick_share * work.deadline.left_s:
        return _solved(work, without)
    quick = work.deadline.first(quick_s)
    try:
        known = _solved(replace(work, deadline=quick), without)
    except BudgetError:
        if work.deadline.over or not quick.over:
            raise
        return _solved(work, without)
    if work.deadline.over or _is_near(work, known):
        return known
    return _best_of(work, known, _solved(replace(work, known=known), without))


def _beyond_us(work: "_Work", solution: Solution) -> float:
    """What a step takes beyond its ops: what it runs again and what it waits."""
    return solution.problem.compute_us - work.problem.compute_us + solution.stall_us


def _is_near(work: "_Work", solution: Solution) -> bool:
    """Whether what may be left to gain hardly pays for looking on."""
    over_us = _beyond_us(work, solution) - solution.bound_beyond_us
    return over_us <= SETTINGS.quick_gap * work.problem.compute_us


def _best_of(work: "_Work", *solutions: Solution) -> Solution:
    """Returns the best with the tightest bound: both rounds bound all plans."""
    best = min(solutions, key=lambda solution: _beyond_us(work, solution))
    tightest = max(solutions, key=lambda solution: solution.bound_beyond_us)
    bound_us, compute_us = tightest.bound_beyond_us, work.problem.compute_us
    good = SETTINGS.is_good(_beyond_us(work, best), bound_us, compute_us)
    return replace(
        best,
        loose_bound_beyond_us=max(solution.loose_bound_beyond_us for solution in solutions),
        bound_beyond_us=bound_us,
        bound_source=tightest.bound_source,
        proof=Proof.OPTIMAL if good else best.proof,
    )


def _solved(work: "_Work", without: Without) -> Solution:
    problem = work.problem
    if problem.fits(()):
        return Solution(problem, frozenset(), (), 0.0, 0.0, BoundSource.TRIVIAL, Proof.NOT_NEEDED)
    offers = NO_OFFERS if without is Without.RECOMPUTE else offers_of(work.effects, problem)
    return _with_recompute(work, offers) if offers.options else _with_swaps_alone(work)


@dataclass(frozen=True)
class _Work:
    """What is to be planned, and with what; and what is known of it by a round before."""

    profile: Profile
    problem: Problem
    solver: SolverName
    deadline: Deadline
    progress: Progress
    on_incumbent: OnIncumbent | None
    known: Solution | None = None

    @cached_property
    def effects(self) -> StepEffects:
        return StepEffects(self.profile)

    @cached_property
    def widest(self) -> Widest:
        """The set of swaps with the most room: always a way out, whatever is found in time."""
        return widest_set(self.problem, self.solver)

    @cached_property
    def alone(self) -> StallBound:
        """The relaxation of swaps alone."""
        deadline = self.deadline.share(SETTINGS.stage_share)
        return relaxed_bound(self.problem, self.solver, deadline)

    def known_swaps(self, dropped: Dropped) -> Candidate | None:
        """What the round before has found for a step that drops this."""
        known = self.known
        return known.candidate if known is not None and known.dropped == dropped else None

    @property
    def can_swap_alone(self) -> bool:
        return self.problem.fits(self.widest.chosen)

    def better_incumbents(self) -> OnIncumbent | None:
        """What is to be called with plans, which hears of none that the round before has beaten."""
        report, known = self.on_incumbent, self.known
        if report is None or known is None:
            return report
        least_us = _beyond_us(self, known)

        def report_better(now: Incumbent) -> None:
            if now.recompute_us + now.stall_us <= least_us:
                report(replace(now, bound_us=max(now.bound_us, known.bound_beyond_us)))

        return report_better

    def search(self) -> Search:
        """Returns a search for the swaps of the step as it is."""
        return Search(self.problem, self.deadline, self.progress, self.better_incumbents())

    def search_of(self, draft: Draft, bound_us: float) -> Search:
        """Returns a search for the swaps of the step as a draft rewrites it.

        It reports the draft's stall together with what it recomputes; the bound is on all plans.
        """
        report, compute_us = self.better_incumbents(), self.problem.compute_us

        def told(now: Incumbent) -> None:
            assert report is not None
            report(Incumbent(now.stall_us, bound_us, compute_us, draft.recompute_us))

        return Search(draft.problem, self.deadline, self.progress, None if report is None else told)


def _with_swaps_alone(
    work: _Work, offers: Offers = NO_OFFERS, loose: StallBound | None = None
) -> Solution:
    """Plans swaps; the bound is on plans that may use what is offered besides.

    `loose` is that bound by the relaxation, if it is known.

    Raises:
        BudgetError: The budget cannot be met.
    """
    check_budget(work.problem, work.widest, work.profile)
    starts = published_starts(work.profile, work.problem)
    if loose is not None:
        # It says less of swaps: some of them dropped, and fewer slots looked at.
        loose = loose._replace(shares=work.alone.shares or loose.shares)
    known = work.known_swaps(frozenset())
    return _solution(work.search(), work.solver, work.widest.chosen, starts, offers, loose, known)


def _with_recompute(work: _Work, offers: Offers) -> Solution:
    """Plans what is dropped and rebuilt, and swaps for the rest.

    Raises:
        BudgetError: The budget cannot be met.
    """
    problem, solver = work.problem, work.solver
    if problem.whole_fits_host(problem.whole_set):
        # A storage that is swapped is away as long as one that is dropped, and takes no inputs.
        check_budget(problem, Widest(problem.whole_set), work.profile)
    work.progress("bounding the stall", 0, STAGES)
    drops = DropSearch(
        ProblemRewriter(work.effects, problem),
        offers,
        work.deadline.share(SETTINGS.drop_share),
        work.progress,
        work.better_incumbents(),
    )
    if work.known is not None:
        drops.bounded(NO_BOUND._replace(stall_us=work.known.bound_beyond_us))
        drops.take([work.known.dropped])
    drops.take_cheapest()
    joint = relaxed_bound(problem, solver, work.deadline.share(SETTINGS.stage_share), offers)
    drops.bounded(joint)
    if not drops.good and _drops_nothing(work, joint):
        return _with_swaps_alone(work, offers, joint)
    published = work.deadline.share(SETTINGS.published_share)
    if not drops.over:
        drops.take(published_drops_of(work.profile, problem, lambda: published.over))
    if not drops.good:
        drops.round(joint.dropped, solver)
    placed = _placed_bound(work, drops)
    drops.improve(placed.dropped)
    draft = drops.best
    widest = widest_set(draft.problem, solver).chosen
    if not draft.problem.fits(widest):
        draft = _relieved(work, drops)
        widest = widest_set(draft.problem, solver).chosen
    if not draft.problem.fits(widest) and not work.can_swap_alone:
        raise _unmet_budget(work, draft)
    # One that was stopped bounds nothing: it is tried once more.
    known = joint if joint.source is BoundSource.RELAXATION else None
    if not draft.dropped or not draft.problem.fits(widest):
        return _with_swaps_alone(work, offers, known)
    solution = _solution_of(work, draft, widest, offers, joint, placed)
    alone = work.alone
    beyond_us = draft.recompute_us + solution.stall_us
    if alone.source is BoundSource.RELAXATION and alone.stall_us < beyond_us - SAME_US:
        # Swaps alone might be better yet.
        other = _with_swaps_alone(work, offers, known) if work.can_swap_alone else solution
        if other.stall_us < beyond_us:
            return other
    return solution


def _placed_bound(work: _Work, drops: DropSearch) -> StallBound:
    """What the ILP proves that knows what recipes need, in steps of few gaps.

    A first search goes before it: the less the best plan costs, the less is left to look for.
    """
    if drops.good or len(work.problem.whole_gaps) > SETTINGS.max_ilp_gaps:
        return NO_BOUND
    placed = placed_offers(work.effects, work.problem)
    if not placed.whole_bytes:
        return NO_BOUND
    drops.improve({}, work.deadline.share(SETTINGS.first_search_share))
    if drops.good:
        return NO_BOUND
    deadline = work.deadline.share(SETTINGS.placed_share)
    cutoff_us = SETTINGS.near(drops.best.cost[0], work.problem.compute_us)
    bound = whole_bound(work.problem, work.solver, deadline, cutoff_us=cutoff_us, offers=placed)
    drops.bounded(bound)
    return bound


def _drops_nothing(work: _Work, joint: StallBound) -> bool:
    """Whether to take it from the relaxation that swaps alone are best.

    In steps of few gaps a search may still find what whole storages gain by recompute.
    """
    many = len(work.problem.whole_gaps) > SETTINGS.max_ilp_gaps
    bounded = joint.source is BoundSource.RELAXATION
    least = min(SETTINGS.drop_shares)
    dropped = any(share > least for share in joint.dropped.values())
    return many and bounded and not dropped and work.can_swap_alone


def _relieved(work: _Work, drops: DropSearch) -> Draft:
    """Drops until the step fits, or until nothing makes it need less."""
    best = drops.best
    limit = Deadline(time.monotonic() + SETTINGS.budget_time_limit_s, work.deadline.stop)
    for dropped in relieving_sets(work.effects, work.problem, lambda: limit.over):
        draft = drops.judge(dropped)
        assert draft is not None
        best = draft
        if not best.over_bytes:
            break
    return best


def _unmet_budget(work: _Work, draft: Draft) -> UnmetBudgetError:
    """Names the smaller of the two budgets that are known to be met: by swaps alone, and with
    all that helps dropped."""
    problem = work.problem
    alone = work.widest._replace(is_proven=False)
    step = recomputed(work.effects, draft.found).profile
    rewritten = problem_like(problem, step)
    both = widest_set(rewritten, work.solver)._replace(is_proven=False)
    if max(problem.floor_bytes(alone.chosen)) <= max(rewritten.floor_bytes(both.chosen)):
        return unmet_budget(problem, alone, work.profile)
    return unmet_budget(rewritten, both, step)


def _solution_of(
    work: _Work,
    draft: Draft,
    widest: frozenset[int],
    offers: Offers,
    joint: StallBound,
    placed: StallBound,
) -> Solution:
    """Plans the swaps of a step that drops what a draft does; the bounds are on all plans."""
    bound = placed if placed.stall_us > joint.stall_us else joint
    if draft.problem.fits(()):
        chosen: frozenset[int] = frozenset()
        swaps: tuple[TimedSwap, ...] = ()
        stall_us = 0.0
        candidate = None
    else:
        search = work.search_of(draft, bound.stall_us)
        search.bounded(max(0.0, bound.stall_us - draft.recompute_us))
        known = work.known_swaps(draft.dropped) or draft.candidate
        found = _solution(search, work.solver, widest, (), known=known)
        chosen, swaps, stall_us = found.chosen, found.swaps, found.stall_us
        candidate = found.candidate
    beyond_us = draft.recompute_us + stall_us
    compute_us = work.problem.compute_us
    few = len(work.problem.whole_gaps) <= SETTINGS.max_ilp_gaps
    if few and not SETTINGS.is_good(beyond_us, bound.stall_us, compute_us):
        deadline = work.deadline.share(SETTINGS.stage_share)
        cutoff_us = SETTINGS.near(beyond_us, compute_us)
        tight = whole_bound(work.problem, work.solver, deadline, cutoff_us=cutoff_us, offers=offers)
        bound = tight if tight.stall_us > bound.stall_us else bound
    good = SETTINGS.is_good(beyond_us, bound.stall_us, compute_us)
    return Solution(
        problem=draft.problem,
        chosen=chosen,
        swaps=swaps,
        loose_bound_beyond_us=joint.stall_us,
        bound_beyond_us=bound.stall_us,
        bound_source=bound.source,
        proof=Proof.OPTIMAL if good else Proof.FEASIBLE,
        stall_us=stall_us,
        found=draft.found,
        candidate=candidate,
    )


def _solution(
    search: Search,
    solver: SolverName,
    widest: frozenset[int],
    starts: Iterable[Start],
    offers: Offers = NO_OFFERS,
    loose: StallBound | None = None,
    known: Candidate | None = None,
) -> Solution:
    """Goes through the stages: each has a plan to fall back on, and a bound once there is one.

    A candidate that is `known` is timed first: what is found is no worse.
    """
    problem = search.problem
    search.progress("bounding the stall", 0, STAGES)
    search.start(widest)
    if known is not None:
        search.take(known)
    if loose is None:
        loose = relaxed_bound(problem, solver, search.deadline.share(SETTINGS.stage_share), offers)
    search.bounded(loose.stall_us)
    search.progress("timing the swaps", 1, STAGES)
    sets = [*starting_sets(problem, loose.shares)]
    if widest != problem.whole_set:
        sets.append(widest)
    search.try_sets(sets, QUICK_POLICIES)
    search.try_starts(starts)
    search.try_sets(_sets_without_groups(search, solver, sets), QUICK_POLICIES)
    tight = None
    if not search.over:
        search.progress("solving the ILP", 2, STAGES)
        tight = _tight_bound(search, solver, loose, offers)
        search.try_sets([*_ilp_sets(search, solver, tight or loose), *sets], POLICIES)
    search.regroup(loose.shares)
    search.improve()
    search.slacken()
    # The file has one word for two proofs: of the ILP, or of the plan by its relaxation's bound.
    ilp_solved = tight is not None and tight.proven
    meets_relaxed_bound = tight is None and search.good
    bound = tight or loose
    return Solution(
        problem=problem,
        chosen=search.best.candidate.chosen,
        swaps=search.best.timing.swaps,
        loose_bound_beyond_us=loose.stall_us,
        bound_beyond_us=bound.stall_us,
        bound_source=bound.source,
        proof=Proof.OPTIMAL if ilp_solved or meets_relaxed_bound else Proof.FEASIBLE,
        stall_us=search.best.timing.stall_us,
        candidate=search.best.candidate,
    )


def _sets_without_groups(
    search: Search, solver: SolverName, before: Collection[frozenset[int]]
) -> Iterator[frozenset[int]]:
    """Yields sets by relaxations that do without one or the other group of gaps.

    Each copy of a small storage waits for anchors, and a large one takes its room from the first of
    its bytes to the last: the relaxation sees neither.
    """
    problem, seen = search.problem, set(before)
    unused: frozenset[int] = frozenset()
    for group in groups_to_leave(problem):
        if search.over:
            return
        stall_us = search.best.timing.stall_us
        deadline = search.deadline.share(SETTINGS.group_share)
        bound = relaxed_bound(problem, solver, deadline, unused=unused | group)
        if not bound.shares or bound.stall_us >= stall_us:
            continue
        sets = islice(starting_sets(problem, bound.shares), SETTINGS.sets_without_group)
        for chosen in sets:
            if chosen not in seen:
                seen.add(chosen)
                yield chosen
        if search.best.timing.stall_us < stall_us:
            unused |= group


def _tight_bound(
    search: Search, solver: SolverName, loose: StallBound, offers: Offers
) -> StallBound | None:
    """What the ILP proves, never less than the loose bound; None where it is not tried."""
    if len(search.problem.whole_gaps) > SETTINGS.max_ilp_gaps:
        return None
    deadline = search.deadline.share(SETTINGS.stage_share)
    tight = whole_bound(search.problem, solver, deadline, offers=offers)
    if tight.stall_us <= loose.stall_us:
        tight = tight._replace(stall_us=loose.stall_us, source=loose.source)
    search.bounded(tight.stall_us)
    return tight


def _ilp_sets(search: Search, solver: SolverName, bound: StallBound) -> Iterator[frozenset[int]]:
    problem = search.problem
    whole = frozenset(i for i, share in enumerate(bound.shares) if share > 0.5)
    if whole and problem.fits(whole):
        yield whole
    if not problem.whole_fits_host(problem.whole_set):
        deadline = search.deadline.share(SETTINGS.stage_share)
        choice = solve_model(build(problem, Goal.CHOICE), solver, deadline)
        if choice.chosen and problem.fits(choice.chosen):
            yield choice.chosen
