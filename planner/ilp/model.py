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
                   op o takes r_o, and runs from slot e_o = least v_j to f_o = greatest u_j

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
    E >= 0         bytes by which the budget is raised (goal BUDGET only; 0 otherwise)
    z_j in {0, 1}  a gap is ended by option j
    g_o in [0, 1]  op o is run again
    U_t >= 0       of W_t: ops that are run again
    Anything at index t' of the first kept slot is 0. W at slot T + t is W_{T-1} + W_t. What begins
    or ends at a slot that is not kept does so at the next kept one. W at a_i - 1 or t - 1, if that
    is not kept, is W at the kept one before it; W at b_i or t is W at the next one.

Model
    min W_{T-1}                                     goals RELAXED (x, c between 0 and 1) and STALL
    min W_{T-1} + eps * (bytes of used gaps)        goal CHOICE
    min E                                           goal BUDGET: (2), (4)-(7), (9), (14), (15)
    (0) W_t >= W_t'
    (1) D_t - D_t' <= O (tau[t', t) + W_t - W_t')
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
    (12) W_{b_i} - W_t >= (r_i - tau[t+1, b_i)) y_it                    where positive, not RELAXED
    (13) (D_t - D_t') / O + k (P_t - P_t') / I <= tau[t', t) + W_t - W_t'
         k (D_t - D_t') / O + (P_t - P_t') / I <= tau[t', t) + W_t - W_t'
    (14) F + Z + G = bytes of used gaps that wrap,        Q_{T-1} = B_{T-1},
         0 <= A_{T-1} - K_{T-1} - D_{T-1} <= O tau_{T-1}                        if any gap wraps
    (15) c_i <= x_i,                 K_t = K_t' + sum of s_i c_i over a_i = t
         c_i <= sum of x_j - c_j over earlier gaps j with the same bytes, unless never written
    (16) x_i + sum of z_j over options of gap i <= 1
    (17) g_o >= z_j                                                               for o in L_j
    (18) sum of r_o g_o over f_o <= t  <=  U_t  <=  sum of r_o g_o over e_o <= t
    (19) W_t - W_t' >= U_t - U_t' >= 0

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
    (16) A gap is ended by a copy or by one recipe; option j is open from a_i until u_j.
    (17) A recipe runs all its ops; one that several recipes share is counted once.
    (18) An op is run again in a gap that asks for it: by the end of the last, not before the first.
    (19) Ops that are run again and waits follow each other, and lanes work during both.

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
its time would seem to carry more than that in this part. A copy to the host is issued inside its
gap or, if that wraps, was left over (2). It has ended before its release, so bytes given back have
left; a copy back starts after an anchor took its bytes, so Q_t is at most the bytes taken by anchor
t; the plan keeps its budget with whole storages, so what is absent in t is at least R_t: (5) and
(10). An await has happened by b_i (4). A copy back starts after its copy out has ended, and both
use one host buffer (6). The copies of a used gap run between the anchors a_i and b_i, waits at both
included (8). What is absent in t and not clean was copied out between the anchors a_i and t (11),
and its copy back is issued at anchor t+1 or later (12). Steps repeat, so a step takes over as many
bytes as it leaves over: in sum it copies out what it begins and is not clean, and copies back what
it ends (14). A clean swap follows one that left its copy, in this step or, where nothing is ever
written, in an earlier one (15). (7) and (9) ask more than the runtime does, since a plan may issue
late and await early; the bounds do without.

With recipes, set z_j to whether a storage is dropped in its gap and comes back between v_j and u_j.
It may be rebuilt before its gap ends, because another recipe needs it, and be swapped until then:
set x_i to 0 all the same, and count none of those copies. So what z_j counts as absent is at least
what is, (5) and (10), and the lanes carry no more than they do. A swap that a recipe's reading cuts
in two counts as one: of its bytes those of the first copy out and of the last copy back. The ops of
L_j are run wherever between the two slots the storage is rebuilt, and a plan rebuilds each gap at
most once (17). What is run again takes its time then, (18) and (19). Hence the bound is one on
recompute and stall together, for the recipes that are offered, each gap rebuilt at most once; it is
none on all ways to recompute. It leaves out the inputs that must be there meanwhile, and what
recipes make on the way.

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
    if goal in (Goal.STALL, Goal.CHOICE):
        rows.c10_away(model)
        rows.c11_gone(model)
        rows.c12_return(model)
    if offers.options:
        rows.c16_one_way(model)
        rows.c17_runs_again(model)
        rows.c18_recomputed(model)
        rows.c19_extra(model)
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
