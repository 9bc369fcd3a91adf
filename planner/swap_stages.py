"""Plans the swaps of one step: by the relaxation, by the ILP, by search, one after the other."""

from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from planner.build_plan import Solution
from planner.ilp.deadline import SolverName
from planner.ilp.model import build
from planner.ilp.solver import NO_BOUND, StallBound, relaxed_bound, solve_model, whole_bound
from planner.ilp.variables import Goal
from planner.plan.plan import Proof
from planner.problem.settings import SETTINGS
from planner.recompute.offers import NO_OFFERS, Offers
from planner.search.candidate import POLICIES, QUICK_POLICIES, Candidate, with_yielding
from planner.search.local_search import Search
from planner.search.starts import Start, groups_to_leave, starting_sets

STAGES = 3


def swaps_of(
    search: Search,
    solver: SolverName,
    widest: frozenset[int],
    starts: Iterable[Start],
    offers: Offers = NO_OFFERS,
    loose: StallBound | None = None,
    known: Candidate | None = None,
    placed: StallBound = NO_BOUND,
) -> Solution:
    """Goes through the stages: each has a plan to fall back on, and a bound once there is one.

    A candidate that is `known` is timed first: what is found is no worse. `placed` is what the ILP
    has proven that knows where large storages may be rebuilt, if it was asked.
    """
    problem = search.problem
    search.progress("bounding the stall", 0, STAGES)
    search.start(widest)
    if known is not None:
        search.take(known)
    if loose is None:
        loose = relaxed_bound(problem, solver, search.deadline.share(SETTINGS.stage_share), offers)
    bound = max(loose, placed, key=lambda bound: bound.stall_us)
    search.bounded(bound.stall_us)
    search.progress("timing the swaps", 1, STAGES)
    sets = [*starting_sets(problem, loose.shares)]
    if widest != problem.whole_set:
        sets.append(widest)
    quick = with_yielding(QUICK_POLICIES, problem.link)
    search.try_sets(sets, quick)
    search.try_starts(starts)
    search.try_sets(_sets_without_groups(search, solver, sets), quick)
    tight = None
    if not search.over:
        search.progress("solving the ILP", 2, STAGES)
        tight = bound if placed.proven else _tight_bound(search, solver, bound, offers)
        search.try_sets(
            [*_ilp_sets(search, solver, tight or loose), *sets],
            with_yielding(POLICIES, problem.link),
        )
    search.regroup(loose.shares)
    search.improve()
    search.slacken()
    # The file has one word for two proofs: of the ILP, or of the plan by its relaxation's bound.
    ilp_solved = tight is not None and tight.proven
    meets_relaxed_bound = tight is None and search.good
    bound = tight or bound
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
    search: Search, solver: SolverName, known: StallBound, offers: Offers
) -> StallBound | None:
    """What the ILP proves, never less than a known bound; None where it is not tried."""
    if len(search.problem.whole_gaps) > SETTINGS.max_ilp_gaps:
        return None
    deadline = search.deadline.share(SETTINGS.stage_share)
    tight = whole_bound(search.problem, solver, deadline, offers=offers)
    if tight.stall_us <= known.stall_us:
        tight = tight._replace(stall_us=known.stall_us, source=known.source)
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
