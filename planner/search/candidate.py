"""A candidate, what the list scheduler is given; and a timing, what it makes of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from planner.plan.lanes import share_of_both
from planner.problem.timed_swap import TimedSwap
from profiles.schema.profile import Link


class OutOrder(Enum):
    """Which gap's copy to the host goes first when several wait."""

    FIRST_BEGUN = auto()
    """The one that has waited longest."""
    LAST_USED = auto()
    """The one that is used again last (Belady)."""
    FIRST_NEEDED = auto()
    """The one whose bytes the budget misses first."""
    LARGEST = auto()
    """The one with the most bytes."""
    BEST_FIT = auto()
    """The one that has waited longest; the smallest sufficient one where a slot does not fit."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How the scheduler chooses.

    Attributes:
        out_order: Which copy to the host goes first.
        lead: A copy back may start this many times earlier than the latest start that keeps every
            deadline; infinity for as early as memory allows.
        overtake: Whether a copy back that fits may go before an earlier one that does not.
        out_lead: While copies back are wanted, a copy to the host may start this many times earlier
            than the latest start that keeps every slot within the budget; infinity for as early as
            its lane is idle. Where lanes share a rate, it would slow what compute waits for.
    """

    out_order: OutOrder
    lead: float
    overtake: bool
    out_lead: float = math.inf

    @property
    def yields(self) -> bool:
        """Whether copies to the host make way for copies back."""
        return self.out_lead < math.inf


POLICIES = tuple(
    Policy(out_order=order, lead=lead, overtake=overtake)
    for order in OutOrder
    for lead in (1.0, 2.0, 4.0, math.inf)
    for overtake in (False, True)
)

QUICK_POLICIES = (
    *(Policy(out_order=order, lead=1.0, overtake=False) for order in OutOrder),
    Policy(out_order=OutOrder.FIRST_BEGUN, lead=math.inf, overtake=False),
)
"""What is tried before the ILP."""

YIELDING_POLICIES = tuple(
    Policy(out_order=OutOrder.FIRST_BEGUN, lead=math.inf, overtake=overtake, out_lead=out_lead)
    for out_lead in (1.15, 1.3, 1.0)
    for overtake in (False, True)
)
"""What is tried besides where lanes share a rate."""


def with_yielding(policies: tuple[Policy, ...], link: Link) -> tuple[Policy, ...]:
    """Returns policies, and those that yield if a link's lanes share a rate: the best first."""
    if share_of_both(link) >= 1:
        return policies
    best, *others = YIELDING_POLICIES
    return (best, *policies, *others)


NEVER = 2**31
"""Past any slot."""


class Override(NamedTuple):
    """An exception to the policy for one gap. All of it gives way where memory leaves no choice.

    Slots count as the gap's do, on past the end of the step.

    Attributes:
        rank: Its copy to the host goes behind those of lower rank.
        out_slot: That copy is not issued before this slot.
        in_slot: The copy back is not issued before this slot.
        release_slot: Here compute waits to give the bytes back, even if the slot fits with them: a
            short wait for the way out may make room for an early start of the way back.
    """

    rank: int = 0
    out_slot: int = 0
    in_slot: int = 0
    release_slot: int = NEVER


NO_OVERRIDE = Override()


@dataclass(frozen=True)
class Candidate:
    """What the scheduler is to time.

    Attributes:
        chosen: Indices of the gaps it may use. With all of them away from end to end every slot
            must fit the budget (`Problem.fits`).
        policy: How it chooses.
        overrides: Exceptions, by gap.
        keeps_copies: Whether a host copy may serve later swaps of the same bytes.
        anew: Gaps that are copied to the host even where an earlier swap's copy is still true: that
            copy need not wait there meanwhile.
    """

    chosen: frozenset[int]
    policy: Policy
    overrides: Mapping[int, Override] = field(default_factory=dict)
    keeps_copies: bool = True
    anew: frozenset[int] = frozenset()


class Wait(NamedTuple):
    """Compute waiting, at a slot's anchor, for one gap's copy."""

    slot: int
    gap: int
    wait_us: float


class Timing(NamedTuple):
    """The swaps of a candidate.

    Attributes:
        chosen: The candidate's gaps without those whose copies had no use.
        swaps: In order of swap-out.
        waits: Where compute waits, by the scheduler's clock.
        first_beyond_us: So much longer compute waits in a first step, as all that wraps is away.
    """

    chosen: frozenset[int]
    swaps: tuple[TimedSwap, ...]
    waits: tuple[Wait, ...]
    first_beyond_us: float = 0.0

    @property
    def stall_us(self) -> float:
        """All waits together."""
        return sum(wait.wait_us for wait in self.waits)
