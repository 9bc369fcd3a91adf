"""The time-indexed integer program behind the exact least stall.

Data: slots t = 0..T with integer durations tau_t; stretches i in which a storage of s_i bytes can
be away, from slot f_i until slot b_i, with integer copy times o_i and n_i; budget C; horizon H.

Variables:
    out_i_u, in_i_u   binary: the copy to the host, the copy back, starts at time u
    gone_i_t          binary: released at anchor t or before
    back_i_t          binary: swapped in at anchor t or before
    arrive_t, freed_t, run_t   compute reaches anchor t, has its releases behind it, runs slot t

Model: minimise run_T - sum tau, subject to
    (1) sum_u out_i_u = sum_u in_i_u = gone_i_(b-1) = back_i_b; gone and back never fall;
        back_i_t <= gone_i_(t-1)
    (2) sum of out_i_v over i and u - o_i < v <= u is at most 1, and the same for in
    (3) arrive_0 = 0; arrive_(t+1) = run_t + tau_t; run_t >= freed_t >= arrive_t
    (4) if i moves: start of out >= arrive_f
    (5) if i is released at t: freed_t >= end of out
    (6) if i is swapped in at t: start of in >= freed_t
    (7) run_b >= end of in
    (8) M_t - sum s_i (gone_i_t - back_i_t) <= C

Every step is on its own, and every swap copies to the host. Copies need no FIFO rule here: issued
at the last anchor before it starts, each copy finds its lane as this program leaves it, so a FIFO
lane can play any of its solutions.
"""

from collections.abc import Mapping

import pulp

from planner.plan.plan import Boundary
from profiles.schema.profile import Profile
from tests.support.planning.oracle import Idle, idles
from tests.support.planning.reference import resident_bytes

Binaries = Mapping[tuple[int, int], pulp.LpVariable]


def least_stall_by_ilp(profile: Profile, budget_bytes: int) -> int | None:
    """The least stall in microseconds, or None if nothing meets the budget."""
    return _Model(profile, budget_bytes).solve()


# One attribute for each datum and each variable of the model above.
class _Model:
    def __init__(self, profile: Profile, budget_bytes: int) -> None:
        self.profile = profile
        self.budget_bytes = budget_bytes
        self.slots_us = [_whole(slot.duration_us) for slot in profile.slots]
        self.idles = idles(profile, Boundary.RESIDENT)
        link = profile.link
        self.out_us = [self._copy_us(i, link.d2h_bytes_per_us) for i in self.idles]
        self.in_us = [self._copy_us(i, link.h2d_bytes_per_us) for i in self.idles]
        self.horizon = sum(self.slots_us) + sum(self.out_us) + sum(self.in_us)
        self.problem = pulp.LpProblem("least_stall", pulp.LpMinimize)
        self.out = self._starts("out", self.out_us)
        self.back_in = self._starts("in", self.in_us)
        self.gone, self.back = self._since("gone"), self._since("back")
        self.arrive, self.freed, self.run = map(self._times, ("arrive", "freed", "run"))

    def solve(self) -> int | None:
        self.problem.setObjective(pulp.lpSum(self.run[-1:]) - sum(self.slots_us))
        for i, idle in enumerate(self.idles):
            self._once(i, idle)
            self._link_copies_to_anchors(i, idle)
        self._lanes()
        self._compute()
        self._budget()
        self.problem.solve(pulp.HiGHS(msg=False, gapAbs=0.5, gapRel=0.0))
        if self.problem.sol_status == pulp.LpSolutionInfeasible:
            return None
        assert self.problem.sol_status == pulp.LpSolutionOptimal
        return round(pulp.value(self.problem.objective))

    def _copy_us(self, idle: Idle, bytes_per_us: float) -> int:
        return _whole(self.profile.link.latency_us + idle.size_bytes / bytes_per_us)

    def _starts(self, name: str, copies_us: list[int]) -> Binaries:
        return {
            (i, u): self.problem.add_variable(f"{name}_{i}_{u}", 0, 1, "Binary")
            for i, copy_us in enumerate(copies_us)
            for u in range(self.horizon - copy_us + 1)
        }

    def _since(self, name: str) -> Binaries:
        return {
            (i, t): self.problem.add_variable(f"{name}_{i}_{t}", 0, 1, "Binary")
            for i, idle in enumerate(self.idles)
            for t in range(idle.first, idle.until + 1)
        }

    def _times(self, name: str) -> list[pulp.LpVariable]:
        return [
            self.problem.add_variable(f"{name}_{t}", 0, self.horizon)
            for t in range(len(self.slots_us))
        ]

    def _add(self, constraint: pulp.LpConstraint, name: str) -> None:
        self.problem.addConstraint(constraint, name)

    def _sum(self, starts: Binaries, i: int) -> pulp.LpAffineExpression:
        return pulp.lpSum(x for (j, _), x in starts.items() if j == i)

    def _start(self, starts: Binaries, i: int) -> pulp.LpAffineExpression:
        return pulp.lpSum(u * x for (j, u), x in starts.items() if j == i)

    def _once(self, i: int, idle: Idle) -> None:  # (1)
        f, b = idle.first, idle.until
        self._add(self._sum(self.out, i) == self.back[i, b], f"c1_out_{i}")
        self._add(self._sum(self.back_in, i) == self.back[i, b], f"c1_in_{i}")
        self._add(self.gone[i, b - 1] == self.back[i, b], f"c1_gone_{i}")
        self._add(self.gone[i, b] == self.back[i, b], f"c1_gone_b_{i}")
        self._add(self.back[i, f] == 0, f"c1_first_{i}")
        for t in range(f + 1, b + 1):
            self._add(self.gone[i, t] >= self.gone[i, t - 1], f"c1_gone_{i}_{t}")
            self._add(self.back[i, t] >= self.back[i, t - 1], f"c1_back_{i}_{t}")
            self._add(self.back[i, t] <= self.gone[i, t - 1], f"c1_order_{i}_{t}")

    def _lanes(self) -> None:  # (2)
        lanes = (("out", self.out, self.out_us), ("in", self.back_in, self.in_us))
        for name, starts, copies_us in lanes:
            for u in range(self.horizon):
                busy = [x for (i, v), x in starts.items() if u - copies_us[i] < v <= u]
                if len(busy) > 1:
                    self._add(pulp.lpSum(busy) <= 1, f"c2_{name}_{u}")

    def _compute(self) -> None:  # (3)
        self._add(self.arrive[0] == 0, "c3_begin")
        for t, slot_us in enumerate(self.slots_us):
            self._add(self.freed[t] >= self.arrive[t], f"c3_freed_{t}")
            self._add(self.run[t] >= self.freed[t], f"c3_run_{t}")
            if t + 1 < len(self.slots_us):
                self._add(self.arrive[t + 1] == self.run[t] + slot_us, f"c3_arrive_{t}")

    def _link_copies_to_anchors(self, i: int, idle: Idle) -> None:  # (4) to (7)
        f, b, h = idle.first, idle.until, self.horizon
        moves = self.back[i, b]
        out_start, in_start = self._start(self.out, i), self._start(self.back_in, i)
        self._add(out_start >= self.arrive[f] - h * (1 - moves), f"c4_{i}")
        for t in range(f, b + 1):
            released = self.gone[i, t] - (self.gone[i, t - 1] if t > f else 0)
            taken = self.back[i, t] - (self.back[i, t - 1] if t > f else 0)
            out_end = out_start + self.out_us[i] * moves
            self._add(self.freed[t] >= out_end - h * (1 - released), f"c5_{i}_{t}")
            self._add(in_start >= self.freed[t] - h * (1 - taken), f"c6_{i}_{t}")
        self._add(self.run[b] >= in_start + self.in_us[i] * moves, f"c7_{i}")

    def _budget(self) -> None:  # (8)
        for t in range(len(self.slots_us)):
            away = pulp.lpSum(
                idle.size_bytes * (self.gone[i, t] - self.back[i, t])
                for i, idle in enumerate(self.idles)
                if idle.first <= t <= idle.until
            )
            over = resident_bytes(self.profile, t) - self.budget_bytes
            self._add(away >= over, f"c8_{t}")


def _whole(time_us: float) -> int:
    assert time_us == int(time_us), f"{time_us} us: the oracle counts whole microseconds"
    return int(time_us)
