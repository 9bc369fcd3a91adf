"""Data-parallel workers of one loop: the first of them has its step planned, all replay that plan.

[Note: one course for all] Workers' batches may differ in shape in the same step, and each replay
waits for the others'. So there is one course, whatever the shapes; a worker whose step is another
one falls back there (`runtime.replay.workers`). Until all have heard what became of the plan, each
step begins with a word from the first worker.
"""

from typing import NamedTuple

from torch import distributed

from profiles.hooks.data_parallel import worker_wrapper
from profiles.hooks.workload import Training
from runtime.training.course import Way


class Word(NamedTuple):
    """What the first worker says of the course that all share."""

    way: Way
    """How its steps are run from now on."""
    text: str
    """The plan, if they are replayed; else why there is none."""


class Agreement:
    """The workers, as one of them sees them. Making it is a collective.

    Attributes:
        is_first: Whether this is the first of them.
    """

    def __init__(self, group: distributed.ProcessGroup) -> None:
        ranks = distributed.get_process_group_ranks(group)
        self.is_first = distributed.get_rank() == ranks[0]
        self._first = ranks[0]
        is_whole_world = len(ranks) == distributed.get_world_size()
        self._group = distributed.new_group(
            ranks, backend="gloo", use_local_synchronization=not is_whole_world
        )

    def hear(self, said: Word | None) -> Word | None:
        """Returns what the first worker says; a collective, and only its own word counts."""
        message: list[Word | None] = [said]
        distributed.broadcast_object_list(message, src=self._first, group=self._group)
        return message[0]


def agreement_of(training: Training) -> Agreement | None:
    """Returns that of the workers that train a model; None if there is but this process."""
    wrapper = worker_wrapper(training.model)
    if wrapper is None or distributed.get_world_size(wrapper.process_group) == 1:
        return None
    return Agreement(wrapper.process_group)
