"""The rows of the ILP: one function per number in `planner.ilp.model`."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pulp import LpAffineExpression, LpConstraint, LpVariable
from pulp.constants import LpConstraintEQ, LpConstraintGE, LpConstraintLE

from planner.ilp.variables import Goal, Model, in_wait_us, out_wait_us
from planner.plan.lanes import share_of_both
from planner.problem.gaps import Gap

Terms = list[tuple[LpVariable, float]]


def add_row(model: Model, name: str, terms: Terms, sense: int, limit: float) -> None:
    """Adds `terms (sense) limit`; PuLP refuses a name given twice."""
    together: dict[LpVariable, float] = {}
    for variable, factor in terms:
        # PuLP would keep the last of two terms with one variable.
        together[variable] = together.get(variable, 0.0) + factor
    constraint = LpConstraint(LpAffineExpression(together), sense, rhs=limit)
    model.program.addConstraint(constraint, name)


def _size(model: Model, gap: Gap) -> float:
    """A gap's bytes, in the solver's units."""
    return gap.size_bytes / model.units.size_bytes


def growth(variables: list[LpVariable], k: int, factor: float = 1.0) -> Terms:
    """The growth of a variable since the kept slot before; what has index -1 is 0."""
    before = [] if k == 0 else [(variables[k - 1], -factor)]
    return [(variables[k], factor), *before]


def waits_between(model: Model, first: int, last: int) -> Terms:
    """The waits at anchors first..last, which may be those of the next step.

    Where such an anchor is not kept, those up to the next kept one, or since the last.
    """
    count = model.problem.slot_count
    if first >= count:
        return waits_between(model, first - count, last - count)
    earlier = model.kept.last_until(first - 1)
    before = [] if earlier < 0 else [(model.waited[earlier], -1.0)]
    if last < count:
        return [(model.waited[model.kept.first_from(last)], 1.0), *before]
    again = model.waited[model.kept.first_from(last - count)]
    return [(model.waited[-1], 1.0), *before, (again, 1.0)]


def _away(model: Model, k: int, back: list[LpVariable]) -> Terms:
    """Bytes on the host alone, with P or Q for what is back."""
    boundary = [] if model.boundary is None else [(model.boundary.away, 1.0)]
    return [*boundary, (model.out[k], 1.0), *_clean_begun(model, k, 1.0), (back[k], -1.0)]


def _clean_begun(model: Model, k: int, factor: float) -> Terms:
    return [(model.clean_begun[k], factor)] if model.clean_begun else []


def run_at(model: Model, slot: int, factor: float) -> Terms:
    """The time of what is run again at a slot's anchor, as far as it is known to be there."""
    unit_us = model.units.time_us / factor
    return [
        (again, model.offers.op_us[rerun.op] / unit_us)
        for rerun, again in model.again.items()
        if rerun.is_exact and rerun.first_slot == slot
    ]


def c0_waits_add_up(model: Model) -> None:
    """(0) Waits only add up."""
    for k, t in enumerate(model.kept.slots):
        add_row(model, f"c0_waits_add_up_{t}", growth(model.waited, k), LpConstraintGE, 0)


def c1_out_rate(model: Model) -> None:
    """(1) The D2H lane carries at most its rate."""
    rate = _out_rate(model)
    for k, t in enumerate(model.kept.slots):
        run = model.kept.before_us(k) / model.units.time_us
        terms = growth(model.out, k) + growth(model.waited, k, -rate)
        if model.later_out:
            terms += growth(model.later_out, k)
        add_row(model, f"c1_out_rate_{t}", terms, LpConstraintLE, rate * run)


def c3_in_rate(model: Model) -> None:
    """(3) The H2D lane carries at most its rate."""
    rate = _in_rate(model)
    for k, t in enumerate(model.kept.slots):
        skipped = model.kept.skipped_us(k) / model.units.time_us
        run = model.problem.durations_us[t] / model.units.time_us
        before = [] if k == 0 else [(model.back_after[k - 1], -1.0)]
        waiting = [(model.back[k], 1.0), *before, *growth(model.waited, k, -rate)]
        running = [(model.back_after[k], 1.0), (model.back[k], -1.0)]
        add_row(model, f"c3_in_rate_wait_{t}", waiting, LpConstraintLE, rate * skipped)
        add_row(model, f"c3_in_rate_run_{t}", running, LpConstraintLE, rate * run)


def _out_rate(model: Model) -> float:
    return _rate(model, model.problem.d2h_us, model.problem.link.d2h_bytes_per_us)


def _in_rate(model: Model) -> float:
    return _rate(model, model.problem.h2d_us, model.problem.link.h2d_bytes_per_us)


def _rate(model: Model, copy_us: Sequence[float], alone_bytes_per_us: float) -> float:
    """The rate the largest storage sees: every copy pays the latency, it loses least by that.

    With a joint rate it is the lane's own: see [Note: The bound] of `planner.ilp.model`.
    """
    problem = model.problem
    bytes_per_us = max(gap.size_bytes / us for gap, us in zip(problem.gaps, copy_us, strict=True))
    if problem.link.both_bytes_per_us is not None:
        bytes_per_us = alone_bytes_per_us * problem.lane_gain
    return bytes_per_us * model.units.time_us / model.units.size_bytes


def c2_out_begun(model: Model) -> None:
    """(2) Only bytes of gaps that have begun can have left."""
    used = zip(model.used, model.gaps, strict=True)
    begun = [(gap.first_slot, x, _size(model, gap)) for x, gap in used]
    sum_rows(model, "c2_begun", model.begun, begun)
    boundary = [] if model.boundary is None else [(model.boundary.leaving, -1.0)]
    for k, t in enumerate(model.kept.slots):
        copied = [(model.begun[k], -1.0), *_clean_begun(model, k, 1.0)]
        terms = [(model.out[k], 1.0), *copied, *boundary]
        add_row(model, f"c2_out_begun_{t}", terms, LpConstraintLE, 0)


def _first_begin(model: Model, k: int) -> int | None:
    """The first slot after the kept one before, up to this one, in which a gap begins, if any."""
    kept = model.kept.slots
    n = bisect_right(model.begins, kept[k - 1] if k else -1)
    return model.begins[n] if n < len(model.begins) and model.begins[n] <= kept[k] else None


def _left_since_begin(model: Model, k: int, factor: float) -> Terms:
    """Bytes on the host less all that may have left of what had begun by the kept slot before."""
    left = [(model.out[k], factor)]
    if k:
        left += [(model.begun[k - 1], -factor), *_clean_begun(model, k - 1, factor)]
    return left if model.boundary is None else [*left, (model.boundary.leaving, -factor)]


def c24_out_since_begin(model: Model) -> None:
    """(24) What begins at a slot has the lane from there on."""
    rate, elapsed_us = _out_rate(model), model.problem.elapsed_us
    for k, t in enumerate(model.kept.slots):
        first = _first_begin(model, k)
        if first is not None:
            since = (elapsed_us[t] - elapsed_us[first]) / model.units.time_us
            terms = [*_left_since_begin(model, k, 1.0), *growth(model.waited, k, -rate)]
            add_row(model, f"c24_out_since_begin_{t}", terms, LpConstraintLE, rate * since)


def c4_back_in_time(model: Model) -> None:
    """(4) What is used again must be back."""
    count = model.problem.slot_count
    used = zip(model.used, model.gaps, strict=True)
    ended = [(gap.next_use_slot % count, x, _size(model, gap)) for x, gap in used]
    sum_rows(model, "c4_ended", model.ended, ended)
    boundary = [] if model.boundary is None else [(model.boundary.early, 1.0)]
    for k, t in enumerate(model.kept.slots):
        terms = [(model.back[k], 1.0), (model.ended[k], -1.0), *boundary]
        add_row(model, f"c4_back_in_time_{t}", terms, LpConstraintGE, 0)
        stays = [(model.back_after[k], 1.0), (model.back[k], -1.0)]
        add_row(model, f"c4_stays_back_{t}", stays, LpConstraintGE, 0)


def sum_rows(
    model: Model, name: str, total: list[LpVariable], parts: Iterable[tuple[int, LpVariable, float]]
) -> None:
    """total_t = total_{t-1} + the amounts of the parts at t, if their variables are 1."""
    added: list[Terms] = [[] for _ in total]
    for t, variable, amount in parts:
        added[model.kept.first_from(t)].append((variable, -amount))
    for k, t in enumerate(model.kept.slots):
        add_row(model, f"{name}_{t}", growth(total, k) + added[k], LpConstraintEQ, 0)


def c5_budget(model: Model) -> None:
    """(5) Every slot fits the budget."""
    dropped = _dropped(model)
    for k, t in enumerate(model.kept.slots):
        if model.least_away_bytes[k] > 0:
            terms = [*_away(model, k, model.back_after), (model.raised, 1.0), *dropped[k]]
            limit = model.least_away_bytes[k] / model.units.size_bytes
            add_row(model, f"c5_budget_{t}", terms, LpConstraintGE, limit)


def _dropped(model: Model) -> list[Terms]:
    """By kept slot: the bytes of the gaps open there that are dropped."""
    dropped: list[Terms] = [[] for _ in model.kept.slots]
    for variable, option in zip(model.dropped, model.offers.options, strict=True):
        gap = option.open_over(model.gaps[option.gap])
        for k, _ in model.kept.open_over(gap):
            dropped[k].append((variable, _size(model, gap)))
    return dropped


def c6_host(model: Model) -> None:
    """(6) Only what has left can come back, and the host holds what is away."""
    limit = _host_limit(model)
    for k, t in enumerate(model.kept.slots):
        left = _away(model, k, model.back_after)
        add_row(model, f"c6_left_{t}", left, LpConstraintGE, 0)
        if limit is not None:
            add_row(model, f"c6_host_{t}", _away(model, k, model.back), LpConstraintLE, limit)


def _host_limit(model: Model) -> float | None:
    """H, of device bytes: what is packed on the way takes less of the host."""
    host_bytes = model.problem.host_budget_bytes
    if host_bytes is None:
        return None
    return (host_bytes + model.problem.packed_away_bytes) / model.units.size_bytes


def c7_host_reserved(model: Model) -> None:
    """(7) The host pool reserves a storage's bytes for its whole swap."""
    limit = _host_limit(model)
    if limit is None:
        return
    wrapping = [
        (used, _size(model, gap))
        for used, gap in zip(model.used, model.gaps, strict=True)
        if model.problem.wraps(gap)
    ]
    for k, t in enumerate(model.kept.slots):
        ended = [] if k == 0 else [(model.ended[k - 1], -1.0)]
        terms = [(model.begun[k], 1.0), *ended, *wrapping]
        add_row(model, f"c7_host_reserved_{t}", terms, LpConstraintLE, limit)


def c8_swap(model: Model) -> None:
    """(8) A storage goes away and comes back within its gap."""
    problem = model.problem
    for i, gap in enumerate(model.gaps):
        a, b = gap.first_slot, gap.next_use_slot
        idle_us = problem.elapsed_us[b] - problem.elapsed_us[a]
        out_us, in_us = problem.d2h_us[model.origins[i]], problem.h2d_us[model.origins[i]]
        both = (out_us + in_us - idle_us) / model.units.time_us
        back = (in_us - idle_us) / model.units.time_us
        if both > 0:
            copied = [(model.used[i], -both), *_if_clean(model, i, both)]
            add_row(
                model, f"c8_swap_{i}", [*waits_between(model, a, b), *copied], LpConstraintGE, 0
            )
        if back > 0 and i in model.clean:
            returned = [(model.used[i], -back)]
            add_row(
                model, f"c8_back_{i}", [*waits_between(model, a, b), *returned], LpConstraintGE, 0
            )


def _if_clean(model: Model, i: int, factor: float) -> Terms:
    return [(model.clean[i], factor)] if i in model.clean else []


def _copied(model: Model, i: int, factor: float) -> Terms:
    return [(model.used[i], factor), *_if_clean(model, i, -factor)]


def c9_one_part(model: Model) -> None:
    """(9) Parts of one gap are used one at a time."""
    parts: dict[tuple[int, int], Terms] = {}
    for used, gap in zip(model.used, model.gaps, strict=True):
        for t in range(gap.first_slot, gap.next_use_slot + 1):
            at = t % model.problem.slot_count
            parts.setdefault((gap.storage, at), []).append((used, 1.0))
    for (storage, t), terms in parts.items():
        if len(terms) > 1:
            add_row(model, f"c9_one_part_{storage}_{t}", terms, LpConstraintLE, 1)


def c10_away(model: Model) -> None:
    """(10) What makes a slot fit is away in it."""
    if not model.absent:
        return
    away = _dropped(model)
    for i, gap in enumerate(model.gaps):
        size = _size(model, gap)
        for k, t in model.kept.open_over(gap):
            away[k].append((model.absent.get((i, t), model.used[i]), size))
    for k, terms in enumerate(away):
        if terms and model.least_away_bytes[k] > 0 and model.kept.slots[k] in model.pinches:
            limit = model.least_away_bytes[k] / model.units.size_bytes
            name = f"c10_away_{model.kept.slots[k]}"
            add_row(model, name, terms, LpConstraintGE, limit)
    for (i, t), absent in model.absent.items():
        terms = [(absent, 1.0), (model.used[i], -1.0)]
        add_row(model, f"c10_used_{i}_{t}", terms, LpConstraintLE, 0)


def c11_gone(model: Model) -> None:
    """(11) What is away has left as a whole."""
    for (i, t), absent in model.absent.items():
        gap = model.gaps[i]
        wait = out_wait_us(model.problem, model.origins[i], gap, t) / model.units.time_us
        if wait > 0:
            waits = waits_between(model, gap.first_slot, t)
            terms = [*waits, (absent, -wait), *_if_clean(model, i, wait)]
            add_row(model, f"c11_gone_{i}_{t}", terms, LpConstraintGE, 0)


def c12_return(model: Model) -> None:
    """(12) What is away comes back as a whole."""
    for (i, t), absent in absent_of(model).items():
        end = model.gaps[i].next_use_slot
        wait = in_wait_us(model.problem, i, t, end) / model.units.time_us
        if wait > 0:
            waits = [*waits_between(model, t + 1, end), *run_at(model, end, -1.0)]
            terms = [*waits, *((y, -wait) for y in absent)]
            add_row(model, f"c12_return_{i}_{t}", terms, LpConstraintGE, 0)


def absent_of(model: Model) -> dict[tuple[int, int], list[LpVariable]]:
    """By gap of the problem and slot: y of that gap and of its late ones, of which one is 1."""
    absent: dict[tuple[int, int], list[LpVariable]] = {}
    for (i, t), y in model.absent.items():
        absent.setdefault((model.origins[i], t), []).append(y)
    return absent


class _BothRate(NamedTuple):
    """A rate of both lanes together, in the solver's units.

    Attributes:
        out_time: 1 / O.
        back_time: 1 / I.
        taken: k.
    """

    out_time: float
    back_time: float
    taken: float


def _both_rate(model: Model) -> _BothRate | None:
    """What lanes keep of their rates while both run; None if they do not meet."""
    link = model.problem.link
    share = share_of_both(link)
    taken = min(1.0, (1.0 - share) / share)
    if taken <= 0:
        return None
    # Kernels may move more device bytes in that time than the link's rate says.
    unit = model.units.size_bytes / model.units.time_us / model.problem.lane_gain
    return _BothRate(unit / link.d2h_bytes_per_us, unit / link.h2d_bytes_per_us, taken)


def c13_both_rate(model: Model) -> None:
    """(13) What the lanes carry is a mixture of each alone and of both at once."""
    rate = _both_rate(model)
    if rate is None:
        return
    for k, t in enumerate(model.kept.slots):
        run = model.kept.before_us(k) / model.units.time_us
        for word, out, back in (("out", 1.0, rate.taken), ("in", rate.taken, 1.0)):
            moved = growth(model.out, k, out * rate.out_time)
            moved += growth(model.back, k, back * rate.back_time)
            terms = moved + growth(model.waited, k, -1.0)
            add_row(model, f"c13_both_rate_{word}_{t}", terms, LpConstraintLE, run)


def _back_since_run(model: Model, k: int, rate: _BothRate) -> Terms:
    """The lane's time for what comes back once the kept slot before has run, less the waits."""
    back = [(model.back[k], rate.back_time), (model.back_after[k - 1], -rate.back_time)]
    return [*back, *growth(model.waited, k, -1.0)]


def c25_both_after_run(model: Model) -> None:
    """(25) What does not leave while a slot runs slows what comes back after it."""
    rate = _both_rate(model)
    if rate is None:
        return
    taken = rate.taken
    for k, t in enumerate(model.kept.slots[1:], 1):
        since = model.kept.skipped_us(k) / model.units.time_us
        ran = model.kept.before_us(k) / model.units.time_us - since
        while_run = taken * taken * rate.back_time
        meanwhile = [(model.back_after[k - 1], while_run), (model.back[k - 1], -while_run)]
        left = growth(model.out, k, taken * rate.out_time)
        terms = [*left, *meanwhile, *_back_since_run(model, k, rate)]
        add_row(model, f"c25_both_after_run_{t}", terms, LpConstraintLE, since + taken * ran)


def c26_both_since_begin(model: Model) -> None:
    """(26) What begins after a slot has run slows what comes back by then."""
    rate = _both_rate(model)
    if rate is None:
        return
    for k, t in enumerate(model.kept.slots[1:], 1):
        if _first_begin(model, k) is not None:
            since = model.kept.skipped_us(k) / model.units.time_us
            left = _left_since_begin(model, k, rate.taken * rate.out_time)
            terms = [*left, *_back_since_run(model, k, rate)]
            add_row(model, f"c26_both_since_begin_{t}", terms, LpConstraintLE, since)


def c14_boundary(model: Model) -> None:
    """(14) A step ends as the one before it ended."""
    boundary = model.boundary
    if boundary is None:
        return
    crossing = [
        (used, -_size(model, gap))
        for used, gap in zip(model.used, model.gaps, strict=True)
        if model.problem.wraps(gap)
    ]
    at_boundary = [(boundary.leaving, 1.0), (boundary.early, 1.0), (boundary.away, 1.0)]
    add_row(model, "c14_crossing", at_boundary + crossing, LpConstraintEQ, 0)
    rest = [(model.begun[-1], 1.0), *_clean_begun(model, -1, -1.0), (model.out[-1], -1.0)]
    add_row(model, "c14_all_out", rest, LpConstraintGE, 0)
    if model.goal is not Goal.BUDGET:
        run = model.problem.durations_us[-1] / model.units.time_us
        limit = _out_rate(model) * run
        add_row(model, "c14_last_out", rest, LpConstraintLE, limit)
    returned = [(model.back_after[-1], 1.0), (model.ended[-1], -1.0)]
    add_row(model, "c14_all_back", returned, LpConstraintEQ, 0)


def c15_clean(model: Model) -> None:
    """(15) A gap is clean only after one that left a copy of the same bytes."""
    if not model.clean:
        return
    later: dict[int, list[LpVariable]] = {}
    for n, q in model.swapped_later.items():
        later.setdefault(model.offers.options[n].gap, []).append(q)
    same_bytes: dict[tuple[int, int], list[int]] = {}
    for i, gap in enumerate(model.gaps):
        same_bytes.setdefault((gap.storage, gap.version), []).append(i)
    for i, clean in model.clean.items():
        gap = model.gaps[i]
        add_row(model, f"c15_used_{i}", [(clean, 1.0), (model.used[i], -1.0)], LpConstraintLE, 0)
        if not gap.read_only:
            alike = same_bytes[gap.storage, gap.version]
            earlier = [j for j in alike if model.gaps[j].reuse_index < gap.reuse_index]
            copied = [term for j in earlier for term in _copied(model, j, -1.0)]
            copied += [(q, -1.0) for j in earlier for q in later.get(j, ())]
            add_row(model, f"c15_copied_{i}", [(clean, 1.0), *copied], LpConstraintLE, 0)
    clean = ((model.gaps[i], variable) for i, variable in model.clean.items())
    begun = [(gap.first_slot, c, _size(model, gap)) for gap, c in clean]
    sum_rows(model, "c15_clean_begun", model.clean_begun, begun)
