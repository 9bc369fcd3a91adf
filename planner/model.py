"""The ILP: which gaps to use, and the least stall that any use of them can have.

Problem
    A step computes slot after slot. Storages may wait on the host during their gaps. Choose gaps so
    that every slot fits the budget and compute waits least for the link.

Data
    gaps i         bytes s_i, first idle slot a_i, slot of the next use b_i
    slots t        time tau_t with nothing moved, bytes M_t resident with nothing moved, t = 0..T-1
    O, I           rates of the D2H and H2D lanes; C budget; H host budget
                   (the rates the largest storage sees once latency is paid)
    o_i, r_i       time of gap i's copy to the host and of its copy back, latency included
    R_t            least sum of sizes of gaps open in t that is at least M_t - C
    tau[t, u)      sum of tau over slots t..u-1; anything with index -1 is 0

Variables
    x_i in {0, 1}  gap i is used
    W_t >= 0       stall up to the start of slot t's run: the sum of d_0..d_t (DESIGN: d_t)
    D_t >= 0       bytes copied to the host by the start of slot t's run
    P_t, Q_t >= 0  bytes copied back by the start of slot t's run, and by its end
    A_t, B_t >= 0  bytes of the used gaps that have begun by slot t, that have ended by slot t
    y_it in [0, 1] gap i is away in slot t, for t with M_t > C; x_i itself unless (11) or (12) asks
                   for a wait
    E >= 0         bytes by which the budget is raised (goal BUDGET only; 0 otherwise)

Model
    min W_{T-1} + eps * (bytes of used gaps)        goals STALL (eps = 0) and CHOICE
    min E                                           goal BUDGET: (2), (4)-(7) and (9) alone
    (0) W_t >= W_{t-1}
    (1) D_t - D_{t-1} <= O (tau_{t-1} + W_t - W_{t-1})
    (2) D_t <= A_t,                  A_t = A_{t-1} + sum of s_i x_i over a_i = t
    (3) P_t - Q_{t-1} <= I (W_t - W_{t-1}),              Q_t - P_t <= I tau_t
    (4) Q_t >= P_t >= B_t,           B_t = B_{t-1} + sum of s_i x_i over b_i = t
    (5) D_t - Q_t >= R_t - E                                                      where M_t > C
    (6) Q_t <= D_t,                  D_t - P_t <= H
    (7) A_t - B_{t-1} <= H           goals CHOICE and BUDGET
    (8) W_{b_i} - W_{a_i - 1} >= (o_i + r_i - tau[a_i, b_i)) x_i                  where positive
    (9) sum of x_i over parts i of one gap with a_i <= t <= b_i <= 1              goals as for (7)
    (10) sum of s_i y_it over gaps open in t >= R_t,      y_it <= x_i             where M_t > C
    (11) W_t - W_{a_i - 1} >= (o_i - tau[a_i, t)) y_it                            where positive
    (12) W_{b_i} - W_t >= (r_i - tau[t+1, b_i)) y_it                              where positive

    (0) Waits only add up.
    (1) The D2H lane carries at most its rate, while compute runs and while it waits.
    (2) Only bytes of gaps that have begun can have left.
    (3) The H2D lane carries at most its rate.
    (4) What is used again must be back, and stays.
    (5) Every slot fits the budget: M_t - D_t + Q_t <= C, or rather what whole storages make of it.
        What is copied back while the slot runs had its bytes taken before.
    (6) Only what has left can come back, and the host holds what is away.
    (7) The host pool reserves a storage's bytes for its whole trip, and an await frees them only
        for later anchors.
    (8) A storage goes away and comes back within its gap; what compute does not cover, it waits.
    (9) Parts of one gap are used one at a time (see `planner.gap_parts`). With goal STALL the gaps
        are whole.
    (10) What makes a slot fit is away in it.
    (11) What is away has left as a whole.
    (12) What is away comes back as a whole.

[Note: The bound]
The LP relaxation with goal STALL is a lower bound on the simulated stall of every plan for the same
candidate gaps (the same minimum size), link and budgets. Take any plan and its simulation. Set x_i
to whether gap i is used, y_it to whether it is absent in slot t, W_t to the simulated waits, D_t,
P_t and Q_t to the bytes the lanes have carried when slot t's run starts and ends, a copy's bytes
counted evenly over its time, latency included. Lanes work only while time passes, and no copy is
faster than the largest one, so (1) and (3) hold. A copy to the host is issued inside its gap (2).
It has ended before its release, so D_t is at least the bytes given back; a copy back starts after
an anchor took its bytes, so Q_t is at most the bytes taken by anchor t; the plan keeps its budget
with whole storages, so what is absent in t is at least R_t: (5) and (10). An await has happened by
b_i (4). A copy back starts after its copy out has ended, and both use one host buffer (6). The
copies of a used gap run between the anchors a_i and b_i, waits at both included (8). What is absent
in t was copied out between the anchors a_i and t (11), and its copy back is issued at anchor t+1 or
later (12). (7) asks more than the runtime does, since a plan may issue late and await early; the
bound does not. Slots are not merged: that would be no relaxation. What the bound gives away: y is
no binary, and the lanes mix the bytes of different storages.

Ideas from Checkmate (Jain et al. 2020, arXiv:1910.02653: memory per stage as linear rows), POET
(Patil et al. 2022, arXiv:2207.07697: paging decided by an ILP), OffMate in Rockmate (hal-04660745:
bandwidth shared by whole slots, the tie-break on bytes moved) and LMS (Le et al. 2018,
arXiv:1811.12174: swap-out and swap-in as operations of the step). None of them carries a queue from
slot to slot, which is what D and P are.
"""

from pulp import LpAffineExpression

from planner.constraints import (
    c0_waits_add_up,
    c1_out_rate,
    c2_out_begun,
    c3_in_rate,
    c4_back_in_time,
    c5_budget,
    c6_host,
    c7_host_reserved,
    c8_trip,
    c9_one_part,
    c10_away,
    c11_gone,
    c12_return,
    c13_both_rate,
    c14_boundary,
    c15_clean,
)
from planner.problem import Problem
from planner.variables import Goal, Model, add_variables

BYTES_WEIGHT = 1e-3
"""eps: bytes moved count a thousandth of the time they take, so they only break ties."""


def build(problem: Problem, goal: Goal) -> Model:
    """Builds the model of the module docstring."""
    model = add_variables(problem, goal)
    _objective(model)
    c2_out_begun(model)
    c4_back_in_time(model)
    c5_budget(model)
    c6_host(model)
    c14_boundary(model)
    c15_clean(model)
    if goal in (Goal.CHOICE, Goal.BUDGET):
        c7_host_reserved(model)
        c9_one_part(model)
    if goal is not Goal.BUDGET:
        c0_waits_add_up(model)
        c1_out_rate(model)
        c3_in_rate(model)
        c8_trip(model)
        c13_both_rate(model)
    if goal in (Goal.STALL, Goal.CHOICE):
        c10_away(model)
        c11_gone(model)
        c12_return(model)
    return model


def _objective(model: Model) -> None:
    least = model.raised if model.goal is Goal.BUDGET else model.waited[-1]
    terms = [(least, 1.0)]
    if model.goal is Goal.CHOICE:
        # In these units the faster lane carries one unit of bytes per unit of time.
        terms += [
            (used, BYTES_WEIGHT * gap.size_bytes / model.units.size_bytes)
            for used, gap in zip(model.used, model.gaps, strict=True)
        ]
    model.program.setObjective(LpAffineExpression(terms))
