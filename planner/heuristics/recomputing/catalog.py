"""All of them, in the order in which tables list them."""

from planner.heuristics.recomputing.capuchin import CAPUCHIN_RECOMPUTE
from planner.heuristics.recomputing.checkpointing import CHECKPOINTING
from planner.heuristics.recomputing.choice import Recomputing
from planner.heuristics.recomputing.superneurons import SUPERNEURONS_RECOMPUTE

RECOMPUTING: tuple[Recomputing, ...] = (
    *CHECKPOINTING,
    CAPUCHIN_RECOMPUTE,
    SUPERNEURONS_RECOMPUTE,
)
