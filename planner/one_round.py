"""One round of planning: what is dropped and rebuilt, what is swapped, and the bound on both."""

import time
from dataclasses import dataclass, replace

from planner.build_plan import Solution
from planner.groundwork import Groundwork
from planner.ilp.beside import BoundBeside
from planner.ilp.deadline import Deadline, Incumbent, OnIncumbent, SolverName
from planner.ilp.solver import NO_BOUND, StallBound, whole_bound
from planner.plan.lanes import SAME_US
from planner.plan.plan import BoundSource, Proof, Without
from planner.problem.problem import Problem, problem_like
from planner.problem.settings import SETTINGS
from planner.problem.timed_swap import TimedSwap
from planner.recompute.offers import NO_OFFERS, Offers
from planner.recompute.rewriting import Dropped, recomputed
from planner.search.candidate import Candidate
from planner.search.drop_search import Draft, DropSearch
from planner.search.local_search import Search
from planner.search.relief import relieving_sets
from planner.search.starts import published_drops_of, published_starts
from planner.smallest_budget import (
    UnmetBudgetError,
    Widest,
    check_budget,
    unmet_budget,
    widest_set,
)
from planner.swap_stages import STAGES, swaps_of
from profiles.schema.progress import Progress


@dataclass(frozen=True)
class Round:
    """What is to be planned, and with what; and what is known of it by a round before."""

    ground: Groundwork
    deadline: Deadline
    progress: Progress
    on_incumbent: OnIncumbent | None
    known: Solution | None = None

    @property
    def problem(self) -> Problem:
        """The problem with nothing dropped."""
        return self.ground.problem

    @property
    def solver(self) -> SolverName:
        """What PuLP drives."""
        return self.ground.solver

    @property
    def has_many_gaps(self) -> bool:
        """Whether the ILP is not tried, and one storage hardly matters."""
        return len(self.problem.whole_gaps) > SETTINGS.max_ilp_gaps

    @property
    def drop_share(self) -> float:
        """Share of the time left that choosing what to drop may take."""
        return SETTINGS.drop_share if self.has_many_gaps else SETTINGS.drop_share_of_few

    @property
    def alone(self) -> StallBound:
        """The relaxation of swaps alone."""
        return self.ground.swap_bound(self.deadline.share(SETTINGS.stage_share))

    def beyond_us(self, solution: Solution) -> float:
        """What a step takes beyond its ops: what it runs again and what it waits."""
        return solution.problem.compute_us - self.problem.compute_us + solution.stall_us

    def known_swaps(self, dropped: Dropped) -> Candidate | None:
        """What the round before has found for a step that drops this."""
        known = self.known
        return known.candidate if known is not None and known.dropped == dropped else None

    def may_swap_alone(self, beyond_us: float) -> bool:
        """Whether swaps alone might be better yet than a step that takes so much longer."""
        alone = self.alone
        is_less = alone.source is BoundSource.RELAXATION and alone.stall_us < beyond_us - SAME_US
        return is_less and self.ground.can_swap_alone

    def better_incumbents(self) -> OnIncumbent | None:
        """What is to be called with plans, which hears of none that the round before has beaten."""
        report, known = self.on_incumbent, self.known
        if report is None or known is None:
            return report
        least_us = self.beyond_us(known)

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


def solved(work: Round, without: Without) -> Solution:
    """Plans a step in one round.

    Raises:
        BudgetError: The budget cannot be met.
    """
    problem = work.problem
    if problem.fits(()):
        return Solution(problem, frozenset(), (), 0.0, 0.0, BoundSource.TRIVIAL, Proof.NOT_NEEDED)
    offers = NO_OFFERS if without is Without.RECOMPUTE else work.ground.offers
    return _with_recompute(work, offers) if offers.options else _with_swaps_alone(work)


def _with_swaps_alone(
    work: Round,
    offers: Offers = NO_OFFERS,
    loose: StallBound | None = None,
    placed: StallBound = NO_BOUND,
) -> Solution:
    """Plans swaps; the bound is on plans that may use what is offered besides.

    `loose` is that bound by the relaxation, and `placed` by the ILP, if they are known.

    Raises:
        BudgetError: The budget cannot be met.
    """
    check_budget(work.problem, work.ground.widest, work.ground.profile)
    starts = published_starts(work.ground.profile, work.problem)
    if loose is not None:
        # It says less of swaps: some of them dropped, and fewer slots looked at.
        loose = loose._replace(shares=work.alone.shares or loose.shares)
    elif not offers.options:
        loose = work.alone
    known, widest = work.known_swaps(frozenset()), work.ground.widest.chosen
    return swaps_of(work.search(), work.solver, widest, starts, offers, loose, known, placed)


def _with_recompute(work: Round, offers: Offers) -> Solution:
    """Plans what is dropped and rebuilt, and swaps for the rest.

    Raises:
        BudgetError: The budget cannot be met.
    """
    problem, solver = work.problem, work.solver
    if problem.whole_fits_host(problem.whole_set):
        # A storage that is swapped is away as long as one that is dropped, and takes no inputs.
        check_budget(problem, Widest(problem.whole_set), work.ground.profile)
    work.progress("bounding the stall", 0, STAGES)
    drops = DropSearch(
        work.ground.rewriter,
        offers,
        work.deadline.share(work.drop_share),
        work.progress,
        work.better_incumbents(),
    )
    if work.known is None:
        drops.take_cheapest()
    else:
        # The best of these, and of what is published, is known as well.
        drops.bounded(NO_BOUND._replace(stall_us=work.known.bound_beyond_us))
        drops.take([work.known.dropped])
    joint = work.ground.joint_bound(work.deadline.share(SETTINGS.stage_share))
    drops.bounded(joint)
    if not drops.good and _drops_nothing(work, joint):
        return _with_swaps_alone(work, offers, joint)
    placed = _search_drops(work, drops, joint)
    draft = drops.best
    widest = widest_set(draft.problem, solver).chosen
    if not draft.problem.fits(widest):
        draft = _relieved(work, drops)
        widest = widest_set(draft.problem, solver).chosen
    if not draft.problem.fits(widest) and not work.ground.can_swap_alone:
        raise _unmet_budget(work, draft)
    # One that was stopped bounds nothing: it is tried once more.
    known = joint if joint.source is BoundSource.RELAXATION else None
    if not draft.dropped or not draft.problem.fits(widest):
        return _with_swaps_alone(work, offers, known, placed)
    share = SETTINGS.rival_share if work.may_swap_alone(draft.cost[0]) else 1.0
    first = replace(work, deadline=work.deadline.share(share))
    solution = _solution_of(first, draft, widest, offers, joint, placed)
    beyond_us = draft.recompute_us + solution.stall_us
    if work.may_swap_alone(beyond_us):
        other = _with_swaps_alone(work, offers, known, placed)
        if other.stall_us < beyond_us:
            return other
    return solution


def _search_drops(work: Round, drops: DropSearch, joint: StallBound) -> StallBound:
    """Searches for what to drop, and returns what is proven besides."""
    if not drops.good:
        drops.round(joint.dropped, work.solver)
    placed = _begin_placed(work, drops)
    published = work.deadline.share(SETTINGS.published_share)
    if work.known is None and not drops.good:
        problem, profile = work.problem, work.ground.profile
        drops.take(published_drops_of(profile, problem, lambda: published.over))
    bound = NO_BOUND if placed is None else _known_meanwhile(work, drops, placed)
    drops.bounded(bound)
    if not work.has_many_gaps or drops.best.stall_us <= SAME_US:
        drops.improve(bound.dropped, _until_near(work, drops))
    else:
        # One storage of thousands hardly matters, and to judge it takes long: where compute waits
        # the time is for what is undecided, and for swaps.
        drops.settle(joint.dropped, work.deadline.share(SETTINGS.settle_share))
    return bound


def _until_near(work: Round, drops: DropSearch) -> Deadline:
    """When a search ends that a round has all its time for: a later one goes on no longer than it
    takes to come as near to the bound as makes a first one do."""
    deadline = work.deadline.share(work.drop_share)
    if work.known is None:
        return deadline
    gap = SETTINGS.quick_gap
    return replace(deadline, stop=lambda: work.deadline.stop() or drops.is_near(gap))


def _begin_placed(work: Round, drops: DropSearch) -> BoundBeside | None:
    """Has the ILP solved that knows what recipes need, in steps of few gaps."""
    if drops.good or work.has_many_gaps or not work.ground.placed.whole_bytes:
        return None
    if work.known is None:
        drops.improve({}, work.deadline.share(SETTINGS.first_search_share), max_starts=0)
        if drops.good:
            return None
    return work.ground.placed_bound(SETTINGS.near(drops.best.cost[0], work.problem.compute_us))


def _known_meanwhile(work: Round, drops: DropSearch, placed: BoundBeside) -> StallBound:
    """Searches while the ILP is solved, and returns what it proves.

    What goes before takes its course: plans of steps for which the ILP is soon solved do not depend
    on how soon.
    """
    deadline = work.deadline.share(SETTINGS.placed_wait_share)
    if not drops.good and placed.goes_on():
        drops.improve({}, replace(deadline, stop=lambda: deadline.stop() or not placed.goes_on()))
    return NO_BOUND if drops.good else placed.by(deadline)


def _drops_nothing(work: Round, joint: StallBound) -> bool:
    """Whether to take it from the relaxation that swaps alone are best.

    In steps of few gaps a search may still find what whole storages gain by recompute.
    """
    bounded = joint.source is BoundSource.RELAXATION
    least = min(SETTINGS.drop_shares)
    dropped = any(share > least for share in joint.dropped.values())
    return work.has_many_gaps and bounded and not dropped and work.ground.can_swap_alone


def _relieved(work: Round, drops: DropSearch) -> Draft:
    """Drops until the step fits, or until nothing makes it need less."""
    best = drops.best
    limit = Deadline(time.monotonic() + SETTINGS.budget_time_limit_s, work.deadline.stop)
    for dropped in relieving_sets(work.ground.effects, work.problem, lambda: limit.over):
        draft = drops.judge(dropped)
        assert draft is not None
        best = draft
        if not best.over_bytes:
            break
    return best


def _unmet_budget(work: Round, draft: Draft) -> UnmetBudgetError:
    """Names the smaller of the two budgets that are known to be met: by swaps alone, and with
    all that helps dropped."""
    problem = work.problem
    alone = work.ground.widest._replace(is_proven=False)
    step = recomputed(work.ground.effects, draft.found).profile
    rewritten = problem_like(problem, step)
    both = widest_set(rewritten, work.solver)._replace(is_proven=False)
    if problem.least_budget_bytes(alone.chosen) <= rewritten.least_budget_bytes(both.chosen):
        return unmet_budget(problem, alone, work.ground.profile)
    return unmet_budget(rewritten, both, step)


def _solution_of(
    work: Round,
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
        found = swaps_of(search, work.solver, widest, (), known=known)
        chosen, swaps, stall_us = found.chosen, found.swaps, found.stall_us
        candidate = found.candidate
    beyond_us = draft.recompute_us + stall_us
    compute_us = work.problem.compute_us
    # Where it is known where large storages may be rebuilt, the ILP hardly says more without.
    asks_ilp = not (work.has_many_gaps or placed.proven)
    if asks_ilp and not SETTINGS.is_good(beyond_us, bound.stall_us, compute_us):
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
