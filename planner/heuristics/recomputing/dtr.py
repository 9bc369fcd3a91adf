"""Dynamic Tensor Rematerialization: what to evict is decided while the step runs.

Kirisame et al., ICLR 2021, arXiv:2006.09616; its simulator was read (uwsampl/dtr-prototype, simrd,
`DTREqClass` in `RuntimeV2EagerOptimized`). When an op's results do not fit, the tensor with the
least h = (own cost + cost of its evicted neighbourhood) / (size * staleness) is evicted, until they
do. What an op needs and finds evicted is made again first, and likewise what that needs. The
neighbourhood is all that is evicted and joined to the tensor by a path of evicted tensors; groups
of them are kept by union-find, and what is made again is taken off its group's cost.

An op that writes in place makes another tensor, for which the bytes of the one it overwrites are
taken. Gradients, and what lives longer than backward, stay. DTR has no plan and no anchors.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from planner.heuristics.heuristic import KnownFrom
from planner.heuristics.recomputing.choice import RecomputeTask, Stop
from planner.heuristics.reference import Outcome, Reference
from planner.heuristics.task import Task
from planner.recompute.recipes import StepEffects
from profiles.schema.memory import Moment, bytes_at, lifetime
from profiles.schema.profile import OPTIMIZER_PRE, Profile, StorageKind

THRASHING = 3.0
"""It is given up when it has run ops again for so many times the step."""


class EvictedGroups:
    """Costs of what is evicted, by groups of neighbours, and of each tensor's neighbourhood."""

    def __init__(self, neighbours: list[set[int]], costs_us: list[float]) -> None:
        self._neighbours = neighbours
        self._costs_us = costs_us
        self.around_us = np.zeros(len(costs_us))
        """By tensor: cost of the groups that it has neighbours in."""
        self._node: dict[int, int] = {}
        self._parents: list[int] = []
        self._cost_us: list[float] = []
        self._border: list[set[int]] = []

    def add(self, tensor: int) -> None:
        """Takes note of an eviction."""
        groups = self._groups_beside(tensor)
        border = set(self._neighbours[tensor])
        cost_us = self._costs_us[tensor]
        root = len(self._parents)
        for group in groups:
            self._shift(self._border[group], -self._cost_us[group])
            cost_us += self._cost_us[group]
            if len(self._border[group]) > len(border):
                border, self._border[group] = self._border[group], border
            border |= self._border[group]
            self._border[group] = set()
            self._parents[group] = root
        self._parents.append(root)
        self._cost_us.append(cost_us)
        self._border.append(border)
        self._node[tensor] = root
        self._shift(border, cost_us)

    def remove(self, tensor: int) -> None:
        """Takes note of what is made again."""
        root = self._root(self._node.pop(tensor))
        for other in self._neighbours[tensor]:
            if root not in self._groups_beside(other):
                self._border[root].discard(other)
                self.around_us[other] -= self._cost_us[root]
        self._cost_us[root] -= self._costs_us[tensor]
        self._shift(self._border[root], -self._costs_us[tensor])

    def _groups_beside(self, tensor: int) -> set[int]:
        return {self._root(self._node[n]) for n in self._neighbours[tensor] if n in self._node}

    def _root(self, node: int) -> int:
        while self._parents[node] != node:
            self._parents[node] = self._parents[self._parents[node]]
            node = self._parents[node]
        return node

    def _shift(self, tensors: set[int], us: float) -> None:
        self.around_us[np.fromiter(tensors, dtype=int, count=len(tensors))] += us


@dataclass(frozen=True)
class _Graph:
    """The tensors of a step that may be evicted: what each write makes of a storage.

    Attributes:
        sizes_bytes: By tensor.
        makers: The op that makes each.
        read: By op, the tensors it needs.
        made: By op, the tensors it makes.
        overwritten: By tensor, the one whose bytes it takes.
        freed: By op, the tensors that the step has no use for after it.
        fixed_bytes: By op, all that is held besides.
    """

    sizes_bytes: list[int]
    makers: list[int]
    read: list[list[int]]
    made: list[list[int]]
    overwritten: dict[int, int]
    freed: dict[int, list[int]]
    fixed_bytes: list[int]


def _graph(effects: StepEffects) -> _Graph:
    profile, managed = effects.profile, _evictable(effects)
    graph = _Graph(
        [], [], [[] for _ in effects.ops], [[] for _ in effects.ops], {}, defaultdict(list), []
    )
    latest: dict[int, int] = {}
    for k, does in enumerate(effects.ops):
        graph.read[k] += [latest[s] for s in sorted(does.reads & managed)]
        for s in sorted(does.writes & managed):
            tensor = len(graph.makers)
            graph.makers.append(k)
            graph.sizes_bytes.append(profile.storages[s].size_bytes)
            graph.made[k].append(tensor)
            if s in latest:
                graph.overwritten[tensor] = latest[s]
            latest[s] = tensor
    for s, tensor in latest.items():
        released_op = profile.storages[s].released_op
        if released_op is not None:
            graph.freed[released_op].append(tensor)
    graph.fixed_bytes.extend(_fixed_bytes(profile, managed))
    return graph


def _fixed_bytes(profile: Profile, managed: set[int]) -> list[int]:
    """By op: the bytes of all that is never evicted."""
    held = np.array(bytes_at(profile, [Moment(op.slot, k) for k, op in enumerate(profile.ops)]))
    held += np.array([profile.slots[op.slot].overhead_bytes for op in profile.ops])
    for s in managed:
        first, last = lifetime(profile.storages[s], len(profile.ops))
        held[first : last + 1] -= profile.storages[s].size_bytes
    return [int(size_bytes) for size_bytes in held]


def _evictable(effects: StepEffects) -> set[int]:
    """Storages that can be made again at any time before the optimizer runs, which uses none."""
    profile = effects.profile
    anchors = [slot.anchor for slot in profile.slots]
    end = len(profile.ops)
    if OPTIMIZER_PRE in anchors:
        end = effects.first_op[anchors.index(OPTIMIZER_PRE)]
    kinds = (StorageKind.ACTIVATION, StorageKind.TEMPORARY)
    managed = {
        s.id
        for s in profile.storages
        if s.kind in kinds and effects.is_made_by_ops(s) and all(use.op < end for use in s.uses)
    }
    while stuck := _stuck(effects, managed, end):
        managed -= stuck
    return managed


def _stuck(effects: StepEffects, managed: set[int], end: int) -> set[int]:
    """Those of some storages that an op writes which cannot run again if only these are made."""
    storages = effects.profile.storages

    def stays(s: int, op: int) -> bool:
        released_op = storages[s].released_op
        is_alive = released_op is None or released_op >= end - 1
        return is_alive and not any(op < writer < end for writer in effects.writers[s])

    return {
        s
        for k, does in enumerate(effects.ops[:end])
        for s in does.writes & managed
        if not does.runs_again
        or not does.writes <= managed
        or not all(r in managed or stays(r, k) for r in does.reads)
    }


class _Pool:
    """The tensors of a run: which are there, and which is worth the least."""

    def __init__(self, graph: _Graph, costs_us: list[float]) -> None:
        count = len(graph.makers)
        neighbours: list[set[int]] = [set() for _ in range(count)]
        for tensor, k in enumerate(graph.makers):
            for read in graph.read[k]:
                neighbours[tensor].add(read)
                neighbours[read].add(tensor)
        self._evicted = EvictedGroups(neighbours, costs_us)
        self._costs_us = np.array(costs_us)
        self._sizes_bytes = np.array(graph.sizes_bytes, dtype=np.int64)
        self._was_made = np.zeros(count, dtype=bool)
        self.is_there = np.zeros(count, dtype=bool)
        self.last_us = np.zeros(count)
        self.locks = np.zeros(count, dtype=int)
        self.held_bytes = 0

    def bytes_of(self, tensors: list[int]) -> int:
        return int(self._sizes_bytes[tensors].sum())

    def add(self, tensor: int) -> None:
        self.is_there[tensor] = True
        self.held_bytes += int(self._sizes_bytes[tensor])
        if self._was_made[tensor]:
            self._evicted.remove(tensor)
        self._was_made[tensor] = True

    def evict(self, tensor: int) -> None:
        self.is_there[tensor] = False
        self.held_bytes -= int(self._sizes_bytes[tensor])
        self._evicted.add(tensor)

    def least(self, now_us: float) -> int | None:
        """The one to evict; None if every one is locked."""
        able = self.is_there & (self.locks == 0) & (self._sizes_bytes > 0)
        if not able.any():
            return None
        stale_us = np.maximum(now_us - self.last_us, 1e-9)
        cost_us = self._costs_us + self._evicted.around_us
        h = np.where(able, cost_us / np.maximum(self._sizes_bytes, 1) / stale_us, math.inf)
        return int(np.argmin(h))


class _Run:
    """One run of a step within a budget."""

    def __init__(self, profile: Profile, graph: _Graph, budget_bytes: int) -> None:
        self._ops = profile.ops
        self._graph = graph
        self._pool = _Pool(graph, [profile.ops[k].duration_us for k in graph.makers])
        self._budget_bytes = budget_bytes
        self._now_us = 0.0
        self.peak_bytes = 0
        self.recompute_us = 0.0

    def step(self, most_us: float, stop: Stop) -> bool:
        """Runs all ops; returns whether it came to an end before it ran too much again."""
        for k in range(len(self._ops)):
            self._run(k)
            for tensor in self._graph.freed.get(k, ()):
                if self._pool.is_there[tensor]:
                    self._pool.evict(tensor)
            if self.recompute_us > most_us or stop():
                return False
        return True

    def _run(self, k: int) -> None:
        """Runs an op of the step, before it whatever is to be made again for it."""
        pool = self._pool
        pending: list[tuple[int, set[int]]] = [(k, set())]
        while pending:
            op, locked = pending[-1]
            for tensor in self._graph.read[op]:
                if pool.is_there[tensor] and tensor not in locked:
                    locked.add(tensor)
                    pool.locks[tensor] += 1
                    pool.last_us[tensor] = self._now_us
            missing = [t for t in self._graph.read[op] if not pool.is_there[t]]
            if missing:
                pending.append((self._graph.makers[missing[0]], set()))
                continue
            self._compute(op, self._graph.fixed_bytes[k])
            pool.locks[list(locked)] -= 1
            pending.pop()
            if pending:
                self.recompute_us += self._ops[op].duration_us

    def _compute(self, op: int, fixed_bytes: int) -> None:
        pool, made = self._pool, self._graph.made[op]
        overwritten = [self._graph.overwritten[t] for t in made if t in self._graph.overwritten]
        # Whoever else has it locked is to read it as it was.
        taken = [t for t in overwritten if pool.locks[t] == 1]
        needed_bytes = fixed_bytes + pool.bytes_of(made) - pool.bytes_of(taken)
        while pool.held_bytes + needed_bytes > self._budget_bytes:
            least = pool.least(self._now_us)
            if least is None:
                break
            pool.evict(least)
        self.peak_bytes = max(self.peak_bytes, pool.held_bytes + needed_bytes)
        self._now_us += self._ops[op].duration_us
        for tensor in made:
            pool.last_us[tensor] = self._now_us
            if not pool.is_there[tensor]:
                pool.add(tensor)
        for tensor in taken:
            pool.evict(tensor)


def _outcome(task: Task, stop: Stop) -> Outcome | str:
    effects, problem = RecomputeTask(task).effects, task.problem
    run = _Run(task.step.profile, _graph(effects), problem.budget_bytes)
    if not run.step(THRASHING * problem.compute_us, stop):
        again = run.recompute_us / problem.compute_us
        return f"it was given up after it had run ops again for {again:.1f} times the step"
    return Outcome(
        peak_bytes=run.peak_bytes, compute_us=problem.compute_us, recompute_us=run.recompute_us
    )


DTR = Reference(
    name="DTR",
    rule=_outcome,
    source="Kirisame et al. 2021, arXiv:2006.09616",
    known_from=KnownFrom.CODE,
    simplified="it decides op by op while the step runs, and what that costs is left out; ops that "
    "write in place take the bytes that they overwrite; gradients stay",
)
