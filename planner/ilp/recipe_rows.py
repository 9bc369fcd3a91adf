"""The rows of the ILP on recipes: one function per number in `planner.ilp.model`."""

from collections.abc import Iterator
from operator import attrgetter

from pulp import LpVariable
from pulp.constants import LpConstraintGE, LpConstraintLE

from planner.ilp.constraints import (
    Terms,
    absent_of,
    add_row,
    growth,
    run_at,
    sum_rows,
    waits_between,
)
from planner.ilp.reruns import RerunsOfOp
from planner.ilp.variables import Model, in_wait_us
from planner.problem.gaps import Gap
from planner.recompute.offers import Option


def _ways(model: Model) -> Iterator[tuple[int, LpVariable, Option]]:
    """The options with their variables, numbered."""
    for n, (z, option) in enumerate(zip(model.dropped, model.offers.options, strict=True)):
        yield n, z, option


def c16_one_way(model: Model) -> None:
    """(16) A gap is ended by a copy or by one recipe; what is left of it may be swapped."""
    ways: dict[int, Terms] = {}
    for n, z, option in _ways(model):
        ways.setdefault(option.gap, [(model.used[option.gap], 1.0)]).append((z, 1.0))
        if n in model.late:
            terms = [(model.used[model.late[n]], 1.0), (z, -1.0)]
            add_row(model, f"c16_late_{z.name}", terms, LpConstraintLE, 0)
    for i, terms in ways.items():
        add_row(model, f"c16_one_way_{i}", terms, LpConstraintLE, 1)


def c16_swapped_later(model: Model) -> None:
    """(16) What is swapped after it was rebuilt is copied to the host before its gap ends."""
    if not model.later_out:
        return
    parts: dict[str, list[tuple[int, LpVariable, float]]] = {"begun": [], "due": []}
    for n, q in model.swapped_later.items():
        option = model.offers.options[n]
        gap = model.gaps[option.gap]
        size = gap.size_bytes / model.units.size_bytes
        parts["begun"].append((option.from_slot, q, size))
        parts["due"].append((gap.next_use_slot, q, size))
        terms = [(q, 1.0), (model.dropped[n], -1.0)]
        add_row(model, f"c16_swapped_later_{n}", terms, LpConstraintLE, 0)
    for word, sense in (("begun", LpConstraintLE), ("due", LpConstraintGE)):
        sums = [model.program.add_variable(f"L{word}_{t}", 0) for t in model.kept.slots]
        sum_rows(model, f"c16_{word}_sum", sums, parts[word])
        for k, t in enumerate(model.kept.slots):
            terms = [(model.later_out[k], 1.0), (sums[k], -1.0)]
            add_row(model, f"c16_{word}_{t}", terms, sense, 0)


def c17_runs_again(model: Model) -> None:
    """(17) Rebuilding runs all ops of a recipe."""
    for of_op in model.reruns:
        for n, option in of_op.options:
            if option.reads is not None:
                rerun, z = of_op.exact[option.until_slot], model.dropped[n]
                terms = [(model.again[rerun], 1.0), (z, -1.0)]
                add_row(model, f"c17_runs_there_{z.name}_{rerun.op}", terms, LpConstraintGE, 0)
        for i in sorted({option.gap for _, option in of_op.options}):
            _runs_again(model, i, of_op)


def _runs_again(model: Model, i: int, of_op: RerunsOfOp) -> None:
    ways = [(n, option) for n, option in of_op.options if option.gap == i]
    reruns = [
        rerun
        for slot, rerun in of_op.exact.items()
        if any(option.from_slot <= slot <= option.until_slot for _, option in ways)
    ]
    if of_op.anywhere is not None and any(option.reads is None for _, option in ways):
        reruns.append(of_op.anywhere)
    op, first_slot, *_ = reruns[-1]
    terms = [(model.again[rerun], 1.0) for rerun in reruns]
    terms += [(model.dropped[n], -1.0) for n, _ in ways]
    add_row(model, f"c17_runs_again_{i}_{op}_{first_slot}", terms, LpConstraintGE, 0)


def c18_recomputed(model: Model) -> None:
    """(18) What is run again takes its time, within the slots that it is run for."""
    unit_us, op_us = model.units.time_us, model.offers.op_us
    due, begun = attrgetter("last_slot"), attrgetter("first_slot")
    for word, slot_of, sense in (("due", due, LpConstraintGE), ("begun", begun, LpConstraintLE)):
        sums = [model.program.add_variable(f"U{word}_{t}", 0) for t in model.kept.slots]
        parts = [
            (slot_of(rerun), again, op_us[rerun.op] / unit_us)
            for rerun, again in model.again.items()
        ]
        sum_rows(model, f"c18_{word}_sum", sums, parts)
        for k, t in enumerate(model.kept.slots):
            terms = [(model.recomputed[k], 1.0), (sums[k], -1.0)]
            add_row(model, f"c18_{word}_{t}", terms, sense, 0)


def c19_extra(model: Model) -> None:
    """(19) What is run again is part of the time beyond the ops themselves."""
    for k, _ in enumerate(model.recomputed):
        t = model.kept.slots[k]
        terms = growth(model.waited, k) + growth(model.recomputed, k, -1.0)
        add_row(model, f"c19_extra_{t}", terms, LpConstraintGE, 0)
        grown = growth(model.recomputed, k)
        add_row(model, f"c19_grows_{t}", grown, LpConstraintGE, 0)


def c20_reads(model: Model) -> None:
    """(20) What a recipe reads is there, or is made by then."""
    for _, z, option in _ways(model):
        for storage in sorted(option.reads or ()):
            read = model.read[storage, option.until_slot]
            name = f"c20_read_{z.name}_{storage}"
            add_row(model, name, [(read, 1.0), (z, -1.0)], LpConstraintGE, 0)
    absent = absent_of(model)
    for read, slot, i in _readings(model):
        terms = [(read, 1.0), *((y, 1.0) for y in absent.get((i, slot), ()))]
        if model.gaps[i].first_slot < slot:
            terms += [
                (z, 1.0)
                for _, z, option in _ways(model)
                if option.gap == i and option.from_slot > slot
            ]
        if len(terms) > 1:
            add_row(model, f"c20_there_{i}_{slot}", terms, LpConstraintLE, 1)


def c21_return_to_be_read(model: Model) -> None:
    """(21) What is away before a recipe reads it comes back as a whole."""
    absent = absent_of(model)
    for read, slot, i in _readings(model):
        for t in range(model.gaps[i].first_slot, slot):
            away = absent.get((i, t), ())
            wait = in_wait_us(model.problem, i, t, slot) / model.units.time_us
            if away and wait > 0:
                waits = [*waits_between(model, t + 1, slot), *run_at(model, slot, -1.0)]
                terms = [*waits, (read, -wait), *((y, -wait) for y in away)]
                name = f"c21_return_to_be_read_{i}_{slot}_{t}"
                add_row(model, name, terms, LpConstraintGE, -wait)


def _readings(model: Model) -> Iterator[tuple[LpVariable, int, int]]:
    """Yields each reading with its slot and the gap of the problem that it falls in."""
    for (storage, slot), read in model.read.items():
        for i, gap in enumerate(model.gaps[: model.whole_count]):
            if gap.storage == storage and gap.first_slot <= slot < gap.next_use_slot:
                yield read, slot, i


def c22_count(model: Model) -> None:
    """(22) Where a few large storages do not fit together, as many are away."""
    problem, whole_bytes = model.problem, model.offers.whole_bytes
    sizes = sorted({gap.size_bytes for gap in model.gaps if gap.size_bytes >= whole_bytes})
    for t in sorted(model.pinches):
        opened = [(i, at) for i, gap in enumerate(model.gaps) for at in _open_at(model, gap, t)]
        own_bytes = sum(model.gaps[i].size_bytes for i, _ in opened if i < model.whole_count)
        room_bytes = problem.budget_bytes - (problem.resident_bytes[t] - own_bytes)
        for size_bytes in sizes:
            large = {i: at for i, at in opened if model.gaps[i].size_bytes >= size_bytes}
            away = sum(i < model.whole_count for i in large) - room_bytes // size_bytes
            if room_bytes < 0 or away <= 0:
                continue
            terms = [(model.absent.get((i, at), model.used[i]), 1.0) for i, at in large.items()]
            terms += [
                (z, 1.0)
                for _, z, option in _ways(model)
                if option.gap in large
                and large[option.gap] < option.open_over(model.gaps[option.gap]).next_use_slot
            ]
            add_row(model, f"c22_count_{t}_{size_bytes}", terms, LpConstraintGE, away)


def _open_at(model: Model, gap: Gap, t: int) -> Iterator[int]:
    """The slot, numbered as a gap counts, if it is open there."""
    for at in (t, t + model.problem.slot_count):
        if gap.first_slot <= at < gap.next_use_slot:
            yield at


def c23_needed(model: Model) -> None:
    """(23) What is rebuilt before its gap ends is rebuilt for another."""
    ways: dict[int, list[tuple[LpVariable, Option]]] = {}
    for _, z, option in _ways(model):
        ways.setdefault(option.gap, []).append((z, option))
    for _, z, option in _ways(model):
        if option.needed_by is None or not option.needed_by <= ways.keys():
            # Another that needs it may be dropped already.
            continue
        others = [
            (other, -1.0)
            for i in sorted(option.needed_by)
            for other, way in ways[i]
            if way.from_slot <= option.until_slot and option.from_slot <= way.until_slot
        ]
        add_row(model, f"c23_needed_{z.name}", [(z, 1.0), *others], LpConstraintLE, 0)
