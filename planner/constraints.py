"""The rows of the ILP: one function per number in `planner.model`."""

from collections.abc import Sequence

from pulp import LpAffineExpression, LpConstraint, LpVariable
from pulp.constants import LpConstraintEQ, LpConstraintGE, LpConstraintLE

from planner.variables import Model, in_wait_us, out_wait_us

Terms = list[tuple[LpVariable, float]]


def _add(model: Model, name: str, terms: Terms, sense: int, limit: float) -> None:
    """Adds `terms (sense) limit`; PuLP refuses a name given twice."""
    constraint = LpConstraint(LpAffineExpression(terms), sense, rhs=limit)
    model.program.addConstraint(constraint, name)


def _step(variables: list[LpVariable], t: int, factor: float = 1.0) -> Terms:
    """The growth of a variable in slot t; what has index -1 is 0."""
    before = [] if t == 0 else [(variables[t - 1], -factor)]
    return [(variables[t], factor), *before]


def c0_waits_add_up(model: Model) -> None:
    """(0) Waits only add up."""
    for t in range(model.problem.slot_count):
        _add(model, f"c0_waits_add_up_{t}", _step(model.waited, t), LpConstraintGE, 0)


def c1_out_rate(model: Model) -> None:
    """(1) The D2H lane carries at most its rate."""
    rate = _rate(model, model.problem.d2h_us)
    durations_us = (0.0, *model.problem.durations_us)
    for t in range(model.problem.slot_count):
        run = durations_us[t] / model.units.time_us
        terms = _step(model.out, t) + _step(model.waited, t, -rate)
        _add(model, f"c1_out_rate_{t}", terms, LpConstraintLE, rate * run)


def c3_in_rate(model: Model) -> None:
    """(3) The H2D lane carries at most its rate."""
    rate = _rate(model, model.problem.h2d_us)
    for t, duration_us in enumerate(model.problem.durations_us):
        run = duration_us / model.units.time_us
        before = [] if t == 0 else [(model.back_after[t - 1], -1.0)]
        waiting = [(model.back[t], 1.0), *before, *_step(model.waited, t, -rate)]
        running = [(model.back_after[t], 1.0), (model.back[t], -1.0)]
        _add(model, f"c3_in_rate_wait_{t}", waiting, LpConstraintLE, 0)
        _add(model, f"c3_in_rate_run_{t}", running, LpConstraintLE, rate * run)


def _rate(model: Model, copy_us: Sequence[float]) -> float:
    """The rate the largest storage sees: every copy pays the latency, it loses least by that."""
    bytes_per_us = max(
        gap.size_bytes / us for gap, us in zip(model.problem.gaps, copy_us, strict=True)
    )
    return bytes_per_us * model.units.time_us / model.units.size_bytes


def c2_out_begun(model: Model) -> None:
    """(2) Only bytes of gaps that have begun can have left."""
    first_slots = [gap.first_slot for gap in model.gaps]
    _sum_rows(model, "c2_begun", model.begun, first_slots)
    for t, (out, begun) in enumerate(zip(model.out, model.begun, strict=True)):
        _add(model, f"c2_out_begun_{t}", [(out, 1.0), (begun, -1.0)], LpConstraintLE, 0)


def c4_back_in_time(model: Model) -> None:
    """(4) What is used again must be back."""
    next_use_slots = [gap.next_use_slot for gap in model.gaps]
    _sum_rows(model, "c4_ended", model.ended, next_use_slots)
    for t, (back, ended) in enumerate(zip(model.back, model.ended, strict=True)):
        _add(model, f"c4_back_in_time_{t}", [(back, 1.0), (ended, -1.0)], LpConstraintGE, 0)
        growth = [(model.back_after[t], 1.0), (back, -1.0)]
        _add(model, f"c4_stays_back_{t}", growth, LpConstraintGE, 0)


def _sum_rows(model: Model, name: str, total: list[LpVariable], at_slots: list[int]) -> None:
    """total_t = total_{t-1} + the bytes of used gaps with `at_slots` t."""
    added: list[Terms] = [[] for _ in total]
    for used, gap, t in zip(model.used, model.gaps, at_slots, strict=True):
        added[t].append((used, -gap.size_bytes / model.units.size_bytes))
    for t, terms in enumerate(added):
        _add(model, f"{name}_{t}", _step(total, t) + terms, LpConstraintEQ, 0)


def c5_budget(model: Model) -> None:
    """(5) Every slot fits the budget."""
    for t, least_bytes in enumerate(model.least_away_bytes):
        if least_bytes > 0:
            terms = [(model.out[t], 1.0), (model.back_after[t], -1.0), (model.raised, 1.0)]
            limit = least_bytes / model.units.size_bytes
            _add(model, f"c5_budget_{t}", terms, LpConstraintGE, limit)


def c6_host(model: Model) -> None:
    """(6) Only what has left can come back, and the host holds what is away."""
    host_bytes = model.problem.host_budget_bytes
    for t, out in enumerate(model.out):
        left = [(out, 1.0), (model.back_after[t], -1.0)]
        _add(model, f"c6_left_{t}", left, LpConstraintGE, 0)
        if host_bytes is not None:
            limit = host_bytes / model.units.size_bytes
            away = [(out, 1.0), (model.back[t], -1.0)]
            _add(model, f"c6_host_{t}", away, LpConstraintLE, limit)


def c7_host_reserved(model: Model) -> None:
    """(7) The host pool reserves a storage's bytes for its whole trip."""
    host_bytes = model.problem.host_budget_bytes
    if host_bytes is None:
        return
    for t, begun in enumerate(model.begun):
        ended = [] if t == 0 else [(model.ended[t - 1], -1.0)]
        limit = host_bytes / model.units.size_bytes
        _add(model, f"c7_host_reserved_{t}", [(begun, 1.0), *ended], LpConstraintLE, limit)


def c8_trip(model: Model) -> None:
    """(8) A storage goes away and comes back within its gap."""
    problem = model.problem
    for i, gap in enumerate(model.gaps):
        a, b = gap.first_slot, gap.next_use_slot
        idle_us = problem.elapsed_us[b] - problem.elapsed_us[a]
        wait = (problem.d2h_us[i] + problem.h2d_us[i] - idle_us) / model.units.time_us
        if wait <= 0:
            continue
        before = [] if a == 0 else [(model.waited[a - 1], -1.0)]
        terms = [(model.waited[b], 1.0), *before, (model.used[i], -wait)]
        _add(model, f"c8_trip_{i}", terms, LpConstraintGE, 0)


def c9_one_part(model: Model) -> None:
    """(9) Parts of one gap are used one at a time."""
    parts: dict[tuple[int, int], Terms] = {}
    for used, gap in zip(model.used, model.gaps, strict=True):
        for t in range(gap.first_slot, gap.next_use_slot + 1):
            parts.setdefault((gap.storage, t), []).append((used, 1.0))
    for (storage, t), terms in parts.items():
        if len(terms) > 1:
            _add(model, f"c9_one_part_{storage}_{t}", terms, LpConstraintLE, 1)


def c10_away(model: Model) -> None:
    """(10) What makes a slot fit is away in it."""
    away: list[Terms] = [[] for _ in model.least_away_bytes]
    for i, gap in enumerate(model.gaps):
        size = gap.size_bytes / model.units.size_bytes
        for t in range(gap.first_slot, gap.next_use_slot):
            if model.least_away_bytes[t] > 0:
                away[t].append((model.absent.get((i, t), model.used[i]), size))
    for t, terms in enumerate(away):
        if terms:
            limit = model.least_away_bytes[t] / model.units.size_bytes
            _add(model, f"c10_away_{t}", terms, LpConstraintGE, limit)
    for (i, t), absent in model.absent.items():
        terms = [(absent, 1.0), (model.used[i], -1.0)]
        _add(model, f"c10_used_{i}_{t}", terms, LpConstraintLE, 0)


def c11_gone(model: Model) -> None:
    """(11) What is away has left as a whole."""
    for (i, t), absent in model.absent.items():
        wait = out_wait_us(model.problem, i, t) / model.units.time_us
        if wait > 0:
            a = model.gaps[i].first_slot
            before = [] if a == 0 else [(model.waited[a - 1], -1.0)]
            terms = [(model.waited[t], 1.0), *before, (absent, -wait)]
            _add(model, f"c11_gone_{i}_{t}", terms, LpConstraintGE, 0)


def c12_return(model: Model) -> None:
    """(12) What is away comes back as a whole."""
    for (i, t), absent in model.absent.items():
        wait = in_wait_us(model.problem, i, t) / model.units.time_us
        if wait > 0:
            b = model.gaps[i].next_use_slot
            terms = [(model.waited[b], 1.0), (model.waited[t], -1.0), (absent, -wait)]
            _add(model, f"c12_return_{i}_{t}", terms, LpConstraintGE, 0)
