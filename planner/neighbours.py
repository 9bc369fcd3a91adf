"""Drafts that differ a little from a draft: the moves of the local search."""

import random
from dataclasses import replace

from planner.draft import NEVER, NO_HOLD, POLICIES, Draft, Hold, Timing
from planner.problem import Problem

SEED = 0
SECOND_MOVE = 0.25
"""Chance of one more move: some pay only together."""


class Neighbours:
    """Draws neighbours, always the same ones in the same order."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._random = random.Random(SEED)

    def draw(self, draft: Draft, timing: Timing) -> Draft | None:
        """Returns a neighbour of a draft, or None if the one drawn does not fit.

        Args:
            draft: The draft.
            timing: What the scheduler made of it; moves favour what compute waits for.
        """
        moved = self._move(draft, timing)
        while moved is not None and self._random.random() < SECOND_MOVE:
            moved = self._move(moved, timing)
        return moved

    def _move(self, draft: Draft, timing: Timing) -> Draft | None:
        kind = self._random.random()
        if kind < 0.5:
            return self._exchange(draft, timing)
        if kind < 0.95:
            return self._hold(draft, timing)
        if self._problem.host_budget_bytes is not None and kind < 0.975:
            return self._share(draft, timing)
        return replace(draft, policy=self._random.choice(POLICIES))

    def _exchange(self, draft: Draft, timing: Timing) -> Draft | None:
        """Drops up to two gaps and adds up to two."""
        outside = [i for i in range(len(self._problem.gaps)) if i not in draft.chosen]
        drops, adds = self._random.choice(((1, 0), (0, 1), (1, 1), (1, 1), (2, 1), (1, 2)))
        dropped = {self._pick(draft, timing) for _ in range(drops)} if draft.chosen else set()
        added = self._random.sample(outside, min(adds, len(outside)))
        chosen = set(draft.chosen) - dropped
        for i in added:
            chosen = {j for j in chosen if not self._problem.clash(i, j)} | {i}
        if chosen == draft.chosen or not self._problem.fits(chosen):
            return None
        holds = draft.holds
        if added and self._random.random() < 0.5:
            holds = self._make_way(draft, timing, added[0])
        return replace(draft, chosen=frozenset(chosen), holds=holds)

    def _make_way(self, draft: Draft, timing: Timing, i: int) -> dict[int, Hold]:
        """Holds back what is on its way to the host when a gap begins, and lets that gap go first.

        Copies cannot be interrupted, so an urgent one may be worth an idle lane before it.
        """
        begin_slot = self._problem.gaps[i].first_slot
        holds = dict(draft.holds)
        for trip in timing.trips:
            if trip.swap_out_slot < begin_slot <= trip.release_slot:
                holds[trip.gap] = holds.get(trip.gap, NO_HOLD)._replace(out_slot=begin_slot)
        holds[i] = holds.get(i, NO_HOLD)._replace(rank=-1)
        return holds

    def _hold(self, draft: Draft, timing: Timing) -> Draft | None:
        """Changes when one gap's copies may be issued."""
        if not draft.chosen:
            return None
        i = self._pick(draft, timing)
        gap = self._problem.gaps[i]
        hold = draft.holds.get(i, NO_HOLD)
        field = self._random.choice((*Hold._fields, "way"))
        if field == "way":
            return replace(draft, holds=self._make_way(draft, timing, i))
        if field == "rank":
            changed = hold._replace(rank=self._random.choice((-1, 0, 1)))
        elif field == "out_slot":
            changed = hold._replace(
                out_slot=self._random.randrange(gap.first_slot, gap.next_use_slot)
            )
        elif field == "release_slot":
            slots = (*range(gap.first_slot, gap.next_use_slot), NEVER)
            changed = hold._replace(release_slot=self._random.choice(slots))
        else:
            slot = self._random.randint(gap.first_slot, gap.next_use_slot)
            changed = hold._replace(in_slot=slot)
        if changed == hold:
            return None
        return replace(draft, holds={**draft.holds, i: changed})

    def _share(self, draft: Draft, timing: Timing) -> Draft | None:
        """Copies one gap anew, or lets it rely on an earlier copy again."""
        if not draft.chosen:
            return None
        return replace(draft, anew=draft.anew ^ {self._pick(draft, timing)})

    def _pick(self, draft: Draft, timing: Timing) -> int:
        """A chosen gap; half the time one that compute waits for, or that is away then."""
        if timing.waits and self._random.random() < 0.5:
            wait = self._random.choice(timing.waits)
            slots = (wait.slot, wait.slot + self._problem.slot_count)
            near = [
                trip.gap
                for trip in timing.trips
                if any(trip.swap_out_slot <= t <= self._end_slot(trip.gap) for t in slots)
            ]
            near = [i for i in near if i in draft.chosen]
            if near:
                return self._random.choice(near)
        return self._random.choice(sorted(draft.chosen))

    def _end_slot(self, i: int) -> int:
        return self._problem.gaps[i].next_use_slot
