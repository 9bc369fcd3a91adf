"""Ranges on a profiler's timeline: one for each action of the schedule, named by its storage.

A range says what the host does at an anchor: `swapplan::swap-out pack:17`, then `release`,
`swap-in` and `await`. The copies themselves show on the device's own rows of the timeline.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import Enum
from functools import cache

import torch
from torch.autograd import profiler

from planner.plan.plan import Plan
from planner.plan.schedule import Action, ActionKind
from profiles.schema.errors import SwapplanError

WORDS = {
    ActionKind.SWAP_OUT: "swap-out",
    ActionKind.RELEASE: "release",
    ActionKind.SWAP_IN: "swap-in",
    ActionKind.AWAIT: "await",
}

Act = Callable[[Action], None]


class Ranges(Enum):
    """Whose timeline shows the actions of a replay."""

    TORCH_PROFILER = "torch.profiler"
    """`torch.profiler`, in steps that begin while it records; the others pay nothing for it."""
    NVTX = "NVTX"
    """NVIDIA Nsight Systems, in every step; needs CUDA."""


class ActionRanges:
    """Puts the actions of one plan into ranges."""

    def __init__(self, ranges: Ranges, plan: Plan) -> None:
        """Takes the names of the plan's storages.

        Raises:
            SwapplanError: NVTX is asked for and there is no CUDA.
        """
        if ranges is Ranges.NVTX and not torch.cuda.is_available():
            raise SwapplanError(
                "Ranges.NVTX needs a CUDA device, which this machine does not have. Use "
                "Ranges.TORCH_PROFILER."
            )
        self._ranges = ranges
        self._names = {storage.id: storage.name for storage in plan.storages}
        self._name_of = cache(self._make_name)

    def around(self, act: Act) -> Act:
        """Returns what does an action in the step that begins now: in a range, if one is wanted."""
        if self._ranges is Ranges.NVTX:
            return self._within(torch.cuda.nvtx.range, act)
        if profiler._is_profiler_enabled:
            return self._within(profiler.record_function, act)
        return act

    def _within(self, new_range: Callable[[str], AbstractContextManager[object]], act: Act) -> Act:
        def ranged(action: Action) -> None:
            with new_range(self._name_of(action)):
                act(action)

        return ranged

    def _make_name(self, action: Action) -> str:
        return f"swapplan::{WORDS[action.kind]} {self._names[action.storage]}"
