"""Steps in which not all is there yet that the plan moves, as in the first of a training.

[Note: the step that makes the states] Most optimizers make their states in the first step, many
buffers and gradients come to life in it, too. A plan that has them wait on the host has no room for
them at once, and their swaps should have begun long before. So such a step does not follow the
plan. It is swapped on line (`runtime.beyond_capacity.online_swap`): before each op, what the op
needs is brought in, and what has lain idle longest makes room. So it stays within the budget
wherever the plan can: no op needs more then. It is slow, since nothing is known ahead. At its end
everything goes where the plan has it when a step begins, and the next step follows the plan.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch

from profiles.hooks.anchors import OPTIMIZER_POST
from profiles.hooks.mode_stack import enter_ops, leave_ops
from profiles.hooks.named_storages import Owned
from runtime.beyond_capacity.online_swap import HostFreeList, OnlineSwap
from runtime.beyond_capacity.retry_after_oom import SecondTry
from runtime.lanes.copy_device import copy_device
from runtime.replay.backend import Backend
from runtime.replay.swap_index import SwapIndex
from runtime.storage.accountant import Accountant

MOST_STEPS_WITHOUT_UPDATE = 8
"""A loss scaler may skip the first updates while it finds its scale. Steps that go on without one
are not the steps of the plan, and following it says so."""


class FirstStep(AbstractContextManager[None]):
    """Keeps one step within a plan's budget without the plan.

    Attributes:
        has_updated: Whether the optimizer has updated the parameters.
    """

    def __init__(
        self,
        device: torch.device,
        backend: Backend,
        accountant: Accountant,
        *,
        budget_bytes: int,
        owned: Callable[[], tuple[Owned, ...]],
    ) -> None:
        """Prepares the step.

        Args:
            device: The device.
            backend: Whose lanes carry the copies.
            accountant: Counts the device's bytes while the step runs.
            budget_bytes: What the step may use.
            owned: Returns what the model and the optimizer hold.
        """
        self.has_updated = False
        self._accountant = accountant
        self._budget_bytes = budget_bytes
        self._enforced_bytes = accountant.budget_bytes
        self._owned = owned
        free_list = HostFreeList(copy_device(device).host_pool)
        self._swap = OnlineSwap(
            device, accountant, d2h=backend.d2h, h2d=backend.h2d, shelf=free_list
        )
        self._retry = SecondTry(self._swap.evict_all_but, ())

    def __enter__(self) -> None:
        # The mode that swaps is entered last, so it is asked first.
        self._swap.begin_step(self._owned())
        self._accountant.budget_bytes = self._budget_bytes
        self._accountant.begin_watch()
        enter_ops(self._retry)
        enter_ops(self._swap)

    def __exit__(self, *_: object) -> None:
        """Ends the step, wherever an interrupt has left it; may be repeated."""
        leave_ops(self._swap)
        leave_ops(self._retry)
        self._accountant.end_watch()
        self._accountant.budget_bytes = self._enforced_bytes

    def on_anchor(self, key: str) -> None:
        """What code that is no op has asked for may leave again; see `hold`."""
        self._swap.at_anchor()
        self.has_updated |= key == OPTIMIZER_POST

    def hold(self, cdata: int) -> bool:
        """Brings a storage in and keeps it until the next anchor; returns whether it was away."""
        return self._swap.hold(cdata)

    @property
    def shortage(self) -> str | None:
        """What did not fit, if the budget was given up."""
        if not self._swap.fell_short:
            return None
        need = self._swap.largest_need
        return (
            f"{need.name} of the step that makes what the plan moves needs {need.size_bytes:,} "
            "bytes at once"
        )

    def make_room(self) -> None:
        """Moves out all that can be moved: there is room then for one storage after the other."""
        self._swap.evict_all_but(set())

    def hand_over(self, storage: torch.UntypedStorage) -> None:
        """Brings one storage back and lets go of it: the plan has it from now on."""
        self._swap.hand_over(storage)

    def close(self) -> None:
        """Brings back what is still away; may be called at any time, and again."""
        self._swap.close()


class FirstSteps:
    """Whether a step begins before all is made that the plan moves, and the one that does.

    Attributes:
        current: The one under way, or whose storages are not all back; None if there is none.
    """

    def __init__(self, index: SwapIndex, begin: Callable[[], FirstStep]) -> None:
        """Makes a record of none.

        Args:
            index: What the plan moves.
            begin: Makes one.
        """
        self.current: FirstStep | None = None
        self._index = index
        self._make = begin
        self._never_made: frozenset[int] = frozenset()
        self._steps_without_update = 0

    def begin(self) -> FirstStep | None:
        """Returns what runs the step that begins now, if some of what the plan moves is missing."""
        is_first = bool(self._index.missing() - self._never_made)
        self.current = self._make() if is_first else None
        return self.current

    def bring_back(self) -> None:
        """Brings back what is still away; may be called at any time, and again."""
        if self.current is not None:
            self.current.close()

    def end(self) -> str | None:
        """Ends one whose storages have gone where the plan has them; returns its shortage."""
        first, self.current = self.current, None
        assert first is not None
        self._steps_without_update = 0 if first.has_updated else self._steps_without_update + 1
        if first.has_updated or self._steps_without_update == MOST_STEPS_WITHOUT_UPDATE:
            # What an update has not made the next one is not expected to make either.
            self._never_made = self._index.missing()
        return first.shortage
