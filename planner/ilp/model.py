"""The ILP: which gaps to use, and the least time beyond the ops that any use of them can take.

Problem
    A step computes slot after slot, and is followed by one like it. Storages may wait on the host
    during their gaps, or be dropped and made again by running ops a second time. Choose gaps so
    that every slot fits the budget, and that waiting for the link and running ops again take the
    least time together.

Data
    slots t        time tau_t with nothing moved, bytes M_t resident with nothing moved, t = 0..T-1
    gaps i         bytes s_i, first idle slot a_i < T, slot of the next use b_i < a_i + T; a gap
                   with b_i >= T wraps: it ends at slot b_i - T of the next step
    kept slots     0, T-1, every a_i and b_i (mod T), and between two of those the fullest slot and
                   (up to `max_kept_slots`) every one fuller than all before or all after it,
                   if M_t > C; with goal RELAXED, if those are more than `max_relaxed_slots`, of
                   each run of them the fullest and the last; t' is the kept slot before t; every
                   row is over kept slots alone
    O, I           rates of the D2H and H2D lanes: those the largest storage sees once latency is
                   paid, or their own if the link has a rate S of both together
    k              what a byte takes of the other lane's time while both run, by what it takes of
                   its own: (O + I - S) / S, at most 1; no row (13) where that is not above 0
    C, H           budget, host budget
    o_i, r_i       time of gap i's copy to the host and of its copy back, latency included
    R_t            least sum of sizes of gaps open in t that is at least M_t - C
    tau[t, u)      sum of tau over slots t..u-1, on into the next step
    options j      ways to end a gap i_j by a recipe (`planner.recompute.offers`): the storage comes
                   back between slots v_j and u_j <= b_i, and the ops of L_j are run again at least;
                   exact ones (`planner.recompute.places`, v_j = u_j) read the storages S_j then;
                   one with u_j < b_i is there for the recipes of the gaps N_j, as far as known;
                   it is open from a_i until u_j, or if it is not exact and u_j = b_i - 1, until b_i
    gaps, further  of each option with u_j < b_i - 1 what is left, from slot v_j + 1 to b_i, is a
                   gap of its own: a late one, i(j)
    op o           takes r_o; where options that are not exact run it, from slot e_o = least v_j of
                   those to f_o = greatest u_j; options whose slots are apart, also by way of others
                   that run the op, run ops of their own (`planner.ilp.reruns`)
    large gaps     with places, those above a size; x, c, y, z of others are between 0 and 1 then,
                   kept are the slots of large gaps' events and the fullest one between two of
                   those, and (10) to (12) are asked for at pinches alone: kept slots with less room
                   than the kept one before and no more than the next, where room N_t is what C
                   leaves if all open gaps are away

Variables
    x_i in {0, 1}  gap i is used
    c_i in {0, 1}  it is used and clean: what it would copy to the host is there already (only if an
                   earlier gap holds the same bytes, or the step never writes them)
    W_t >= 0       stall up to the start of slot t's run: the sum of the waits of slots 0..t
    D_t >= 0       bytes copied to the host by the start of slot t's run
    P_t, Q_t >= 0  bytes copied back by the start of slot t's run, and by its end
    A_t, B_t >= 0  bytes of the used gaps that have begun by slot t, that have ended by slot t
    K_t >= 0       bytes of the clean gaps that have begun by slot t
    F, Z, G >= 0   bytes of the used gaps that wrap, as a step begins: not yet copied to the host,
                   on the host alone, copied back already (all 0 if no gap wraps)
    y_it in {0, 1} gap i is away in slot t, for t with M_t > C; x_i itself unless (11) or (12) asks
                   for a wait (and if more than `max_absence_edges` of them do: all of (10) then
                   follows from (2), (4), (5) and (14), and is left out)
    Y_it           y_it and those of gap i's late gaps; (12), (20), (21) are not asked of these
    E >= 0         bytes by which the budget is raised (goal BUDGET only; 0 otherwise)
    z_j in {0, 1}  a gap is ended by option j
    g_or, h_o      in [0, 1]: op o is run again at slot r, by an exact option; elsewhere
    n_kr in [0, 1] a recipe at slot r reads storage k
    q_j in [0, 1]  of options open until b_i that are not exact and end the gap before a clean one
                   of the same bytes: the storage is swapped between being rebuilt and b_i
    L_t >= 0       bytes of those copied to the host
    U_t >= 0       of W_t: ops that are run again; V_r = sum of r_o g_or, of those at slot r
    Anything at index t' of the first kept slot is 0. W at slot T + t is W_{T-1} + W_t. What begins
    or ends at a slot that is not kept does so at the next kept one. W at a_i - 1 or t - 1, if that
    is not kept, is W at the kept one before it; W at b_i or t is W at the next one.

Model
    min W_{T-1}                                     goals RELAXED (x, c between 0 and 1) and STALL
    min W_{T-1} + eps * (bytes of used gaps)        goal CHOICE
    min E                                           goal BUDGET: (2), (4)-(7), (9), (14), (15)
    (0) W_t >= W_t'
    (1) D_t + L_t - D_t' - L_t' <= O (tau[t', t) + W_t - W_t')
    (2) D_t <= F + A_t - K_t,        A_t = A_t' + sum of s_i x_i over a_i = t
    (3) P_t - Q_t' <= I (tau[t'+1, t) + W_t - W_t'),          Q_t - P_t <= I tau_t
    (4) Q_t >= P_t >= B_t - G,       B_t = B_t' + sum of s_i x_i over b_i = t (mod T)
    (5) Z + D_t + K_t - Q_t + sum of s z_j over options open in t >= R_t - E      where M_t > C
    (6) Z + D_t + K_t - Q_t >= 0,    Z + D_t + K_t - P_t <= H
    (7) A_t - B_t' + (bytes of used gaps that wrap) <= H                goals CHOICE and BUDGET
    (8) W_{b_i} - W_{a_i - 1} >= (o_i + r_i - tau[a_i, b_i)) (x_i - c_i)          where positive
        W_{b_i} - W_{a_i - 1} >= (r_i - tau[a_i, b_i)) x_i              where positive and c_i is
    (9) sum of x_i over parts i of one gap with a_i <= t <= b_i <= 1              goals as for (7)
    (10) sum of s_i (y_it + z_i) over gaps open in t >= R_t
         y_it <= x_i                                                    where M_t > C, not RELAXED
    (11) W_t - W_{a_i - 1} >= (o_i - tau[a_i, t)) (y_it - c_i)          where positive, not RELAXED
    (12) W_{b_i} - V_{b_i} - W_t >= (r_i - tau[t+1, b_i)) Y_it          where positive, not RELAXED
    (13) (D_t - D_t') / O + k (P_t - P_t') / I <= tau[t', t) + W_t - W_t'
         k (D_t - D_t') / O + (P_t - P_t') / I <= tau[t', t) + W_t - W_t'
    (14) F + Z + G = bytes of used gaps that wrap,        Q_{T-1} = B_{T-1},
         0 <= A_{T-1} - K_{T-1} - D_{T-1} <= O tau_{T-1}                        if any gap wraps
    (15) c_i <= x_i,                 K_t = K_t' + sum of s_i c_i over a_i = t
         c_i <= sum of x_j - c_j over earlier gaps j with the same bytes, unless never written, and
                of q_j of those
    (16) x_i + sum of z_j over options of gap i <= 1,          x_i(j) <= z_j,         q_j <= z_j
         sum of s q_j over b_i <= t  <=  L_t  <=  sum of s q_j over v_j <= t
    (17) g_or >= z_j                                    for exact j with u_j = r and o in L_j
         h_o + sum of g_or over r in [v_j, u_j] >= sum of z_j       over options j of one gap that
                run o; h_o if one of them is not exact
    (18) sum of r_o h_o over f_o <= t, of r_o g_or over r <= t  <=  U_t
         U_t  <=  sum of r_o h_o over e_o <= t, of r_o g_or over r <= t
    (19) W_t - W_t' >= U_t - U_t' >= 0
    (20) n_kr >= z_j                                                  for exact j and k in S_j
         n_kr + Y_ir + sum of z_m over options m of gap i with v_m > r <= 1
                for gaps i of k open in r; without the z if a_i = r
    (21) W_r - V_r - W_t >= (r_i - tau[t+1, r)) (Y_it + n_kr - 1)
                where positive, for gaps i of k with a_i <= t < r < b_i
    (22) sum of y_it and of z_j over options of gap i open in t, over gaps i open in t of at least
         s bytes >= (number of these, late ones aside) - floor(N_t / s)
                for each size s of large gaps, at pinches t with N_t >= 0
    (23) z_j <= sum of z_m over options m of gaps in N_j with [v_m, u_m] not apart from [v_j, u_j]
    (24) D_t - F - A_t' + K_t' <= O (tau[a, t) + W_t - W_t')
                where gaps begin in slots t'+1..t, the first of them in slot a
    (25) k (D_t - D_t') / O + k^2 (Q_t' - P_t') / I + (P_t - Q_t') / I
                <= k tau_t' + tau[t'+1, t) + W_t - W_t'                              RELAXED
    (26) k (D_t - F - A_t' + K_t') / O + (P_t - Q_t') / I <= tau[t'+1, t) + W_t - W_t'
                where (24) is asked                                                  RELAXED

    (0) Waits only add up.
    (1) The D2H lane carries at most its rate, while compute runs and while it waits.
    (2) Only bytes of gaps that have begun can have left; clean gaps copy none.
    (3) The H2D lane carries at most its rate.
    (4) What is used again must be back, and stays.
    (5) Every slot fits the budget: M_t less what is on the host alone is at most C, or rather what
        whole storages make of it. What is copied back while the slot runs had its bytes taken
        before, so Q_t counts.
    (6) Only what has left can come back, and the host holds what is away.
    (7) The host pool reserves a storage's bytes for its whole swap, and an await frees them only
        for later anchors.
    (8) A storage goes away and comes back within its gap; what compute does not cover, it waits.
    (9) Parts of one gap are used one at a time (see `planner.problem.gaps`). With goals RELAXED and
        STALL the gaps are whole.
    (10) What makes a slot fit is away in it.
    (11) What is away has left as a whole, unless it is clean.
    (12) What is away comes back as a whole.
    (13) What the lanes carry is a mixture of each alone (O, 0), (0, I) and of both at once, where
         each has S / (O + I) of its rate; these are the two edges between those three.
    (14) A step ends as the one before it ended. What wraps is somewhere when it begins. In a whole
         step the D2H lane copies as much as begins in it and is not clean, the last of it during
         the last run, and the H2D lane copies as much as ends in it. With goal BUDGET time does not
         matter, and the last part of the middle row is missing.
    (15) A gap is clean only after one that left a copy of the same bytes, which one that is clean
         itself does not: so parts of storages are not counted twice in goal RELAXED.
    (16) A gap is ended by a copy or by one recipe. What is left of it then may be swapped.
    (17) A recipe runs all its ops; one that several recipes of one slot share is counted once.
    (18) An op is run again in a gap that asks for it: by the end of the last, not before the first.
    (19) Ops that are run again and waits follow each other, and lanes work during both.
    (20) What a recipe reads is on the device in that slot, or made there, if it was dropped.
    (21) What is away before a recipe reads it comes back as a whole.
    (22) Where a few large storages do not fit together, as many of them are away.
    (23) What is rebuilt before its gap ends is rebuilt for another recipe.
    (24) What begins at a slot has the lane from there on, not while slots before it run.
    (25) Of what leaves no more leaves while slot t' runs than the lanes carry then; the rest slows
        what comes back from there on.
    (26) Nor does what has not begun when t' runs.

[Note: The bound]
With goal RELAXED (the loose bound) and with goal STALL (the tight one) the optimum is a lower bound
on the simulated stall of every plan for the same candidate gaps (the same minimum size), link and
budgets; with STALL so is whatever the solver has proven by the time it stops. Take any plan and its
simulated step, of many that repeat. Set x_i to whether gap i is used, c_i to whether its swap is
clean, y_it to whether it is absent in slot t, W_t to the simulated waits, D_t, P_t and Q_t to the
bytes the lanes have carried in this step when slot t's run starts and ends, a copy's bytes counted
evenly over its time, latency included; F, Z and G to where the bytes of swaps that wrap are when
the step begins. Lanes work only while time passes, and no copy is faster than the largest one: so
(1) and (3) hold. If two at once share S, count a copy's bytes as they move instead, for which O and
I are the lanes' own rates, and (13) holds, too; evenly counted, a copy that is slowed in part of
its time would seem to carry more than that in this part. While t' runs the lanes carry Q_t' - P_t'
back and so at most (O / k) (tau_t' - (Q_t' - P_t') / I), and O (tau_t' - k (Q_t' - P_t') / I), to
the host; the rest of D_t - D_t' leaves while P_t - Q_t' comes back: the second limit, and what has
begun, in the mixture of that time are (25) and (26). A copy to the host is issued inside its gap
or, if that wraps, was left over (2): by the end of the run of t' no more has left than F + A_t' -
K_t', and what has begun since has had the lane since anchor a (24). It has ended before its
release, so bytes given back have left; a copy back starts after an anchor took its bytes, so Q_t is
at most the bytes taken by anchor t; the plan keeps its budget with whole storages, so what is
absent in t is at least R_t: (5) and (10). An await has happened by b_i (4). A copy back starts
after its copy out has ended, and both use one host buffer (6). The copies of a used gap run between
the anchors a_i and b_i, waits at both included (8). What is absent in t and not clean was copied
out between the anchors a_i and t (11), and its copy back is issued at anchor t+1 or later (12).
Steps repeat, so a step takes over as many bytes as it leaves over: in sum it copies out what it
begins and is not clean, and copies back what it ends (14). A clean swap follows one that left its
copy, in this step or, where nothing is ever written, in an earlier one (15). (7) and (9) ask more
than the runtime does, since a plan may issue late and await early; the bounds do without.

With recipes, set z_j to whether a storage is dropped in its gap and comes back between v_j and u_j,
g_or to whether op o is run again at slot r, and h_o to whether it is at another slot from e_o to
f_o. The storage may be rebuilt before its gap ends, because another recipe needs it, and be swapped
until then. If something is left of the gap, that is the late gap's swap. Else set x_i to 0 all the
same, q_j to 1, and count of those copies the first one to the host in L_t, and none back. So what
z_j and late gaps count as absent is at least what is, (5), (10) and (22), and the lanes carry no
more than they do, (1) and (16); a later gap may then be clean by that copy, (15). A swap that a
recipe's reading cuts in two counts as one: of its bytes those of the first copy out and of the last
copy back; y_it is 0 in the slot that reads. The ops of L_j are run wherever between the two slots
the storage is rebuilt, and a plan rebuilds each gap at most once (17). What is run again takes its
time then, (18) and (19); at an anchor awaits come first, so what is run again there hides no copy
awaited there, (12) and (21).
S_j are the storages that the recipe of j alone finds in place at slot r, but for those that the
recipe of another gap at r makes without filling them: these may be made when both are run together.
The rest is found where nothing else is dropped, and so it is in any plan unless it is dropped
itself. Then it is absent there, its recipe is part of the same run, and it is filled at r: no
option with v_m > r. If its gap begins at r it is dropped one anchor later. If it is swapped, its
copy back has ended by anchor r, and was issued at anchor t+1 or later if it was away in t: (20) and
(21); of the y of a gap and of its late ones at most one is 1. Of large gaps open in t those that
are not absent take their bytes, each at least s; all else that must be there leaves N_t for them
(22). A recipe at r makes a dropped storage only for an op that it runs to make another one. Follow
those up to one that is large, or whose own gap ends at r, where the run begins: it is filled at r,
too, and in N_j. Where a storage is made with writers that are not run, and another recipe finds it
when all have written it, more may be needed: there N_j is not known. Options of
`planner.recompute.offers` have in N_j all gaps whose recipe needs the storage at their end, where
it needs most (23).

Hence the bound is one on recompute and stall together, for the recipes that are offered, each gap
rebuilt at most once; it is none on all ways to recompute. It leaves out what recipes make on the
way, and what those of smaller storages read.

Slots that are not kept cost nothing in this: a row over kept slots is a sum of rows over all slots
(D, P, Q and W only grow), W at the kept slot before, or at the next one, only makes (8), (11) and
(12) weaker, and rows (5) and (10) for slots between two kept ones are left out. What the bounds
give away: that, and that the lanes mix the bytes of different storages; RELAXED also moves parts of
storages.

[Note: What is chosen fits] Between two kept slots the same gaps are open, so a set of whole gaps
with (10) in the fullest slot between them fits in all of them.

Ideas from Checkmate (Jain et al. 2020, arXiv:1910.02653: memory per stage as linear rows), POET
(Patil et al. 2022, arXiv:2207.07697: paging decided by an ILP), OffMate in Rockmate (hal-04660745:
bandwidth shared by whole slots, the tie-break on bytes moved) and LMS (Le et al. 2018,
arXiv:1811.12174: swap-out and swap-in as operations of the step). None of them carries a queue from
slot to slot, which is what D and P are.
"""

from pulp import LpAffineExpression

from planner.ilp import constraints as rows
from planner.ilp import recipe_rows
from planner.ilp.variables import Goal, Model, add_variables
from planner.problem.problem import Problem
from planner.problem.settings import SETTINGS
from planner.recompute.offers import NO_OFFERS, Offers


def build(problem: Problem, goal: Goal, offers: Offers = NO_OFFERS) -> Model:
    """Builds the model of the module docstring."""
    model = add_variables(problem, goal, offers)
    _objective(model)
    rows.c2_out_begun(model)
    rows.c4_back_in_time(model)
    rows.c5_budget(model)
    rows.c6_host(model)
    rows.c14_boundary(model)
    rows.c15_clean(model)
    if goal in (Goal.CHOICE, Goal.BUDGET):
        rows.c7_host_reserved(model)
        rows.c9_one_part(model)
    if goal is not Goal.BUDGET:
        rows.c0_waits_add_up(model)
        rows.c1_out_rate(model)
        rows.c3_in_rate(model)
        rows.c8_swap(model)
        rows.c13_both_rate(model)
        rows.c24_out_since_begin(model)
    if goal is Goal.RELAXED:
        rows.c25_both_after_run(model)
        rows.c26_both_since_begin(model)
    if goal in (Goal.STALL, Goal.CHOICE):
        rows.c10_away(model)
        rows.c11_gone(model)
        rows.c12_return(model)
    if offers.options:
        recipe_rows.c16_one_way(model)
        recipe_rows.c16_swapped_later(model)
        recipe_rows.c17_runs_again(model)
        recipe_rows.c18_recomputed(model)
        recipe_rows.c19_extra(model)
        recipe_rows.c23_needed(model)
    if offers.whole_bytes and goal is Goal.STALL:
        recipe_rows.c20_reads(model)
        recipe_rows.c21_return_to_be_read(model)
        recipe_rows.c22_count(model)
    return model


def _objective(model: Model) -> None:
    least = model.raised if model.goal is Goal.BUDGET else model.waited[-1]
    terms = [(least, 1.0)]
    if model.goal is Goal.CHOICE:
        # In these units the faster lane carries one unit of bytes per unit of time.
        terms += [
            (used, SETTINGS.bytes_weight * gap.size_bytes / model.units.size_bytes)
            for used, gap in zip(model.used, model.gaps, strict=True)
        ]
    model.program.setObjective(LpAffineExpression(terms))
