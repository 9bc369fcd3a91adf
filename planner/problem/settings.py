"""What tunes the planner: how far the ILP and the search go, each limit with its reason.

They trade planning time for stall and change no plan's soundness. Tolerances that belong to a
solver's or a clock's arithmetic stand where they are used.
"""

import math
from dataclasses import dataclass

from planner.plan.plan import Without

WITHOUT_BY_DEFAULT = Without.NOTHING
"""What plans do not use unless something else is asked for."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """The planner's tuning; a reason stands below each figure, or the last of some."""

    smallest_share: int = 1000
    """A storage below 1/1000 of the peak with nothing moved stays by default: each swap costs time
    at four anchors, which what small storages give back does not pay for."""
    left_out_share: float = 0.01
    """Unless many of them are idle at once: they may then be less than this share of the budget."""
    max_gap_parts: int = 1000
    """Above this many possible parts only whole gaps are considered, for the sake of the ILP's
    size."""

    max_kept_slots: int = 1000
    """Above this many slots the ILP keeps only the fullest ones, for the sake of the solver's
    time."""
    max_relaxed_slots: int = 500
    """The loose bound counts no more slots: more make it hardly tighter, and much slower."""
    max_joint_slots: int = 300
    """Nor that many where storages may be dropped and an ILP follows, which says more: relaxations
    with rows for ops that are run again are the slowest."""
    kept_of_run: int = 2
    """Of each run of slots a thinned choice keeps the fullest one and the last one."""
    max_absence_edges: int = 20_000
    """Above this many rows that only tighten the ILP they are left out."""
    max_sum_steps: int = 100_000
    """Sizes in a subset sum are counted in at most this many steps; coarser ones lose a little of
    the result."""
    max_open_gaps: int = 200
    """With more gaps open at once their sums are so dense that nothing is gained: not looked at."""
    bytes_weight: float = 1e-3
    """eps of `planner.ilp.model`: bytes moved count a thousandth of the time they take, so they
    only break ties."""
    max_simplex_rows: int = 20_000
    """HiGHS takes an interior point method for relaxations of more rows, and ends it at a vertex as
    well: 13 to 28 s for six joint relaxations of 26,000 to 47,000 rows, where dual simplex takes 8
    to more than 150. Below, simplex is as fast or faster."""
    mip_gap: float = 1e-3
    """The solvers' relative gap."""
    mip_gap_units: float = 1e-2
    """Near zero stall a relative gap never closes; this, in the model's units, is the time to copy
    0.01% of the peak."""
    bound_effort: float = 0.02
    """Share of HiGHS's time for solutions where a bound is asked for; otherwise it takes most."""
    early_options: int = 3
    """So many ranges of slots in which a storage may be rebuilt before its gap ends, divided where
    they are farthest apart: of each, what is run at its first slot counts."""
    max_placed_gaps: int = 40
    """So many gaps of the largest storages count as a whole where the bound knows what recipes
    need: each has an option for every slot where it may be rebuilt."""
    placed_share: float = 3 / 4
    """Share of the time left that it may take: what it finds is the best start for the rest."""
    placed_wait_share: float = 3 / 4
    """Share of the time left in a round that is searched while it is being solved."""
    first_search_share: float = 1 / 4
    """Share of the time left for a first descent before it: the less the best plan costs, the less
    is left to look for, and it may take half as long."""
    max_places: int = 30_000
    """Above this many gaps and slots the bound does not look at where storages may be rebuilt."""
    max_ilp_gaps: int = 1500
    """With more gaps the ILP is not tried: it hardly ever says more in time than the loose bound,
    and HiGHS looks at the clock too seldom while it prepares models so large."""
    stage_share: float = 1 / 2
    """Share of the time left that the loose bound may take, and then the ILP."""
    budget_time_limit_s: float = 60.0
    """Wall time for the smallest budget; what is not proven by then is not called the smallest. So
    long, too, storages are dropped where swaps do not meet a budget."""

    quick_seconds: float = 15.0
    quick_gap: float = 0.01
    """Planning goes on after so many seconds for 1,000 ops only if more than this share of the step
    may be left to gain: in steps of 1,000 ops what is found later is less, and takes most of the
    time."""
    quick_share: float = 1 / 2
    """Unless that is more than this share of the time there is."""

    writing_seconds: float = 0.15
    """So long before its limit planning ends for 1,000 ops, for the plan to be laid out on the host
    and verified."""

    max_steps: int = 6
    """Steps walked before the scheduler shuts the step boundary."""
    max_overtaken: int = 64
    """So many of the next copies back may go before the first one; looking at all is slow."""
    max_exhaustive: int = 6
    """With at most this many gaps every set is tried."""
    max_whole: int = 500
    """With more gaps than this all of them together are not tried: slow, and never the best."""
    least_used_share: float = 1e-3
    """A relaxation that uses less of a gap does not use it."""
    large_storage: float = 0.02
    """A storage above this share of the budget is large: the relaxation, whose bytes flow, hardly
    sees what it costs to move it as a whole."""
    max_large_groups: int = 4
    """So many groups of large storages, and that of small ones, are left where they are, one after
    the other."""
    sets_without_group: int = 3
    """So many of the sets that each of those relaxations leads to are timed; the rest does not
    depend on it."""
    group_share: float = 1 / 4
    """Share of the time left that each of those relaxations may take."""
    min_regrouped: int = 300
    """With more gaps, all policies are tried with the best sets alone, and runs of gaps change
    together before single ones do."""
    raced_sets: int = 1
    """So many sets are the best ones then: policies differ less than sets do."""
    run_lengths: tuple[int, ...] = (1, 2, 4, 8, 16)
    """How long a run may be."""
    relief_spread: float = 0.2
    """So much the order in which others take their place varies."""
    regroup_tries: int = 100
    """That stops after so many tries in a row without a gain worth having."""
    regroup_share: float = 2 / 3
    """Share of the time left that it may take."""
    seed: int = 0
    """Of the local search: always the same neighbours."""
    second_move: float = 0.25
    """Chance of one more move: some pay only together."""
    exchange: float = 0.5
    override: float = 0.95
    """A move exchanges gaps below the first, and overrides the policy for one gap below the second
    of these; the rest changes the policy."""
    share_copies: float = 0.975
    """With a host budget a move below this changes which gaps share host copies."""
    make_way: float = 0.5
    """Chance that what is exchanged in goes first."""
    pick_waited: float = 0.5
    """Chance that a gap is picked among those that compute waits for."""
    min_tries: int = 1000
    tries_per_gap: int = 30
    max_tries: int = 2000
    """The local search stops after so many tries in a row without a gain worth having."""
    tries_sideways: int = 100
    """So often it returns to the best answer, lest it drift away from it."""
    good_enough: float = 1e-3
    """The search stops this close to the bound, as a share of the step: `mip_gap`."""
    worth_having: float = 1e-4
    """A gain worth another round of tries, as a share of the step; smaller ones are kept as
    well."""
    earlier_leads: tuple[float, ...] = (math.inf, 4.0, 2.0)
    """Leads with which the best plan is fetched earlier at last, the earliest first."""

    drop_share: float = 3 / 4
    drop_share_of_few: float = 0.9
    """Share of the time left that choosing what to drop may take, its bounds included: the swaps of
    a step of few gaps are soon found."""
    rival_share: float = 1 / 2
    """Share of the time left for the swaps of a step that drops, if swaps alone may be better."""
    drop_shares: tuple[float, ...] = (0.02, 0.5)
    """What a relaxation drops by more than this is dropped; the lower first, as a relaxation never
    drops too much."""
    cheapest_shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Shares of all bytes that could be dropped, the cheapest to run again first, which are tried
    before the relaxation has said anything."""
    published_share: float = 1 / 4
    """Share of the time left that finding out what published baselines drop may take."""
    max_published_ops: int = 3000
    """Steps of more ops are left to POFO and the relaxation: the other baselines rewrite the step
    for seconds, and rarely drop what the relaxation does not."""
    drop_rounds: int = 6
    """So often the relaxation of a rewritten step is asked what more to drop."""
    round_share: float = 1 / 4
    """Share of the time left for that; each relaxation of a ResNet takes seconds."""
    settle_share: float = 1 / 2
    """Share of the time left for what the relaxation of a step of many gaps drops in parts; its
    swaps have the rest."""
    drop_tries: int = 150
    """A local search over what is dropped stops after so many tries without a gain."""
    first_start_share: float = 1 / 2
    """Share of the time left for the search from what a solution of the model drops."""
    drop_starts: int = 20
    restart_gap: float = 0.005
    """So often in a row without a gain another one begins, unless less than this share of the step
    is left to gain: where one ends is a matter of chance."""
    tries_after_kick: int = 60
    """One that begins near the best stops after fewer tries: most of what it may find is known to
    be no better."""
    tries_of_kick: int = 30
    kick_loss: float = 0.05
    """It begins some moves from there, with what takes no more of the step longer; so often one is
    looked for."""
    drop_policies: int = 3
    """Policies that judge what is dropped; more hardly change the order of two sets. Where lanes
    share a rate the first of them yields, which may be by far the best, or by far the worst."""
    policy_gain: float = 0.03
    """So much of the step, and of what it waits, one policy hardly ever gains over another."""
    take_out: float = 0.4
    """A move takes out, below this, one that is dropped; else another changes sides."""
    pick_swapped: float = 0.5
    """That is one which is swapped now, below this; else a large one."""

    def is_good(self, beyond_us: float, bound_us: float, compute_us: float) -> bool:
        """Whether time beyond the ops themselves is as near to its bound as anything is looked
        for."""
        return beyond_us <= self.near(bound_us, compute_us)

    def near(self, beyond_us: float, compute_us: float, share: float = good_enough) -> float:
        """Returns the most that still counts as near some time beyond the ops themselves."""
        return beyond_us + share * (compute_us + beyond_us)


SETTINGS = SearchSettings()
