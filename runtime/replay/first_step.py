"""Steps without the plan, but within its budget: the first of a training, and those that leave it.

[Note: the step that makes the states] Most optimizers make their states in the first step, many
buffers and gradients come to life in it, too. A plan that has them wait on the host has no room for
them at once, and their swaps should have begun long before. So such a step does not follow the
plan. It is swapped on line (`runtime.beyond_capacity.online_swap`): before each op, what the op
needs is brought in, and what has lain idle longest makes room. So it stays within the budget
wherever the plan can: no op needs more then. It is slow, since nothing is known ahead. At its end
everything goes where the plan has it when a step begins, and the next step follows the plan.

[Note: steps that leave the plan] A step may begin as planned and then take another course: the last
update of an epoch adds up fewer batches, a loss scaler skips an update. From there on it can be
swapped on line likewise. What the plan has away comes back storage by storage, and what lies idle
makes room for it. No mode is entered for that, since a backward that is under way has those of its
beginning: the one that looks at the ops of the step hands them over (`GuardedStorages.detour`).
What is dropped is filled again last, one recipe after the other: what each of them reads is brought
in, and what lies idle makes room for what it makes.
"""

from contextlib import AbstractContextManager
from enum import Enum
from functools import partial
from typing import Any

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from planner.plan.plan import Plan
from profiles.hooks.dispatch import RunOp
from profiles.hooks.mode_stack import enter_ops, leave_ops
from profiles.schema.profile import OPTIMIZER_POST
from runtime.beyond_capacity.online_swap import OnlineSwap
from runtime.beyond_capacity.second_try import SecondTry
from runtime.host.host_pool import HostFreeList
from runtime.lanes.copy_device import copy_device
from runtime.replay.executor import SwapExecutor
from runtime.storage.accountant import Accountant
from runtime.storage.residency import TrackedStorage

MOST_STEPS_WITHOUT_UPDATE = 8
"""A loss scaler may skip the first updates while it finds its scale. Steps that go on without one
are not the steps of the plan, and following it says so."""


class OffPlan(Enum):
    """What becomes of a step that takes another course than the plan's."""

    RESIDENT = "it runs on resident"
    ON_LINE = "it is swapped on line, within the budget, wherever that can be"


class FirstSteps(AbstractContextManager[None]):
    """Keeps steps within a plan's budget without the plan, one after the other.

    Attributes:
        swap: What swaps on line in the one under way, or has not brought all back; else None.
    """

    def __init__(
        self,
        executor: SwapExecutor,
        accountant: Accountant,
        plan: Plan,
        off_plan: OffPlan,
    ) -> None:
        """Prepares for steps in which what `executor` moves is swapped on line."""
        self.swap: OnlineSwap | None = None
        self._off_plan = off_plan
        self._executor = executor
        self._accountant = accountant
        self._budgets_bytes = plan.budget_bytes, accountant.budget_bytes
        self._workspaces_bytes = {op.name: op.size_bytes for op in plan.workspaces}
        self._modes: tuple[TorchDispatchMode, ...] = ()
        # Of all these steps: see [Note: host memory outlives its copies].
        self._free_list = HostFreeList(copy_device(executor.index.device).host_pool)
        self._has_joined = self._has_updated = False
        self._never_made: frozenset[int] = frozenset()
        self._steps_without_update = 0

    def begin(self) -> bool:
        """Whether a step that begins now is one: some of what the plan moves is not made yet."""
        if not self._executor.index.missing() - self._never_made:
            return False
        self._has_joined = False
        self._prepare()
        return True

    @property
    def are_on_line(self) -> bool:
        """Whether a step that leaves the plan is to be swapped on line from there."""
        return self._off_plan is OffPlan.ON_LINE

    def join(self) -> None:
        """Swaps on line from here on a step that has followed the plan so far."""
        self._has_joined = True
        swap, second_try = self._prepare()
        self._take_over(swap)

        def run(func: OpOverload, args: Any, kwargs: Any, and_count: RunOp) -> Any:
            again = partial(second_try.run_op_by, and_count)
            return swap.run_op_by(again, func, args, kwargs)

        self._accountant.guarded.detour = run

    def __enter__(self) -> None:
        """Has everything that the step before has left away, if it was one of these, too."""
        assert self.swap is not None
        self._take_over(self.swap)
        self._accountant.__enter__()
        for mode in self._modes:
            enter_ops(mode)

    def __exit__(self, *_: object) -> None:
        """Ends the step, wherever an interrupt has left it; may be repeated."""
        self._accountant.guarded.detour = None
        for mode in reversed(self._modes):
            leave_ops(mode)
        self._accountant.__exit__()
        self._accountant.budget_bytes = self._budgets_bytes[1]

    def on_anchor(self, key: str) -> None:
        """What code that is no op has asked for may leave again; see `hold`."""
        if self.swap is not None:
            self.swap.at_anchor()
            self._has_updated |= key == OPTIMIZER_POST

    def hold(self, cdata: int) -> bool:
        """Brings a storage in and keeps it until the next anchor; returns whether it was away."""
        return self.swap is not None and self.swap.hold(cdata)

    def away(self) -> tuple[TrackedStorage, ...]:
        """Returns those that must not be touched before they are back."""
        return () if self.swap is None else self.swap.moving()

    def bring_back(self) -> None:
        """Brings back what is still away; may be called at any time, and again."""
        if self.swap is not None:
            self.swap.close()

    def end(self) -> str | None:
        """Ends one whose storages have gone where the plan has them.

        Returns:
            What did not fit, if the budget was given up.
        """
        swap, self.swap = self.swap, None
        assert swap is not None
        if not self._has_joined:
            self._note_what_is_made()
        if not swap.fell_short:
            return None
        need = swap.largest_need
        which = "has left the plan" if self._has_joined else "makes what the plan moves"
        return f"{need.name} of the step that {which} needs {need.size_bytes:,} bytes at once"

    def _prepare(self) -> tuple[OnlineSwap, SecondTry]:
        device, lanes = self._executor.index.device, self._executor.backend
        swap = OnlineSwap(
            device, self._accountant, d2h=lanes.d2h, h2d=lanes.h2d, free_list=self._free_list
        )
        swap.note_workspaces(self._workspaces_bytes)
        second_try = SecondTry(swap.evict_all_but, (), records=False)
        # The mode that swaps is entered last, so it is asked first.
        self._modes = second_try, swap
        self._has_updated = False
        self.swap = swap
        return swap, second_try

    def _take_over(self, swap: OnlineSwap) -> None:
        self._accountant.budget_bytes = self._budgets_bytes[0]
        self._executor.hand_over(swap)
        swap.make_fit()

    def _note_what_is_made(self) -> None:
        self._steps_without_update = 0 if self._has_updated else self._steps_without_update + 1
        if self._has_updated or self._steps_without_update == MOST_STEPS_WITHOUT_UPDATE:
            # What an update has not made the next one is not expected to make either.
            self._never_made = self._executor.index.missing()
