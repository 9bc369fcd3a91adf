"""All of them, in the order in which tables list them, and what they drop, to start a search at."""

from collections.abc import Iterator, Sequence

from planner.heuristics.recomputing.capuchin import CAPUCHIN_RECOMPUTE
from planner.heuristics.recomputing.checkpointing import CHECKPOINTING
from planner.heuristics.recomputing.choice import RecomputeTask, Recomputing, Stop
from planner.heuristics.recomputing.memory_budget import MEMORY_BUDGET
from planner.heuristics.recomputing.pofo import POFO
from planner.heuristics.recomputing.superneurons import SUPERNEURONS_RECOMPUTE
from planner.heuristics.recomputing.torchtitan_plan import TORCHTITAN_PLAN
from planner.problem.gaps import Gap

RECOMPUTING: tuple[Recomputing, ...] = (
    *CHECKPOINTING,
    SUPERNEURONS_RECOMPUTE,
    MEMORY_BUDGET,
    TORCHTITAN_PLAN,
    POFO,
    # It may take all the time there is.
    CAPUCHIN_RECOMPUTE,
)


STARTS: tuple[Recomputing, ...] = (
    *CHECKPOINTING[:5],
    SUPERNEURONS_RECOMPUTE,
    MEMORY_BUDGET,
    POFO,
    TORCHTITAN_PLAN,
    CAPUCHIN_RECOMPUTE,
)
"""Those that drop something of their own, the quickest first."""


def published_drops(
    task: RecomputeTask, stop: Stop, baselines: Sequence[Recomputing] = STARTS
) -> Iterator[tuple[str, frozenset[Gap]]]:
    """Yields baselines' names with the gaps in which they drop storages, each set once.

    They are gaps of the step as it is. Where a baseline holds on to what its recipes read (see
    `RecomputeTask.keeping`), recipes for the same gaps may be longer, or there may be none.
    """
    seen: set[frozenset[Gap]] = {frozenset()}
    for baseline in baselines:
        if stop():
            return
        dropped = baseline.rule(task, stop).dropped
        if dropped not in seen:
            seen.add(dropped)
            yield baseline.name, dropped
