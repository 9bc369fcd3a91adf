"""Steps that follow no plan, kept within the budget by swapping on line, and guarded in between."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from profiles.hooks.anchors import AnchorHooks
from profiles.hooks.workload import Training
from profiles.recording.device import Instruments
from profiles.schema.profile import Access
from runtime.beyond_capacity.limited_steps import LimitedSteps
from runtime.replay.attached_hooks import AttachedHooks
from runtime.replay.between_steps import BoundaryGuard


class OnLine:
    """What keeps steps without a plan within a budget, and what they leave away from harm.

    Between two steps some of what the model and the optimizer hold may be in host memory. Code that
    touches it there first has everything brought back, as between two steps of a replay.

    Attributes:
        limited: What runs the steps.
    """

    def __init__(
        self,
        training: Training,
        limit_bytes: int | None,
        tools: Instruments,
        hooks: AnchorHooks,
    ) -> None:
        """Prepares lanes and host memory; no limit if None."""
        self.limited = LimitedSteps(training, limit_bytes, tools, hooks)
        self._in_step = False
        self._guard = BoundaryGuard(self.limited.bring_back, lambda what: None)
        self._attached = AttachedHooks(self, self._guard)
        self._attached.attach(training.model, training.optimizer)

    @contextmanager
    def around(self, step: AbstractContextManager[object]) -> Iterator[None]:
        """Runs a step of `limited` inside, as one that anything may follow."""
        self._guard.leave()
        self._attached.begin_step()
        self._in_step = True
        try:
            with step:
                yield
        finally:
            self._in_step = False
            self._attached.end_step()
            self.guard()

    def guard(self) -> None:
        """Guards from now on, between two steps, what is away."""
        self._guard.enter(self.limited.swap.moving())

    def release(self) -> None:
        """Guards nothing any more: something else is about to look after what is away."""
        self._guard.leave()

    def bring_back(self) -> None:
        """Brings everything back, between two steps."""
        self._guard.end(self.limited.bring_back)

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Anchors are found by hooks of their own."""

    def on_address(self, storage: torch.UntypedStorage, access: Access) -> None:
        """In a step `limited` hears of them itself."""

    def on_state_dict(self, *, by_ops: bool) -> None:
        """Has everything back before a state_dict is read or loaded, unless ops show its use."""
        if not self._in_step:
            self._guard.touch("a state_dict")
        elif not by_ops:
            self.limited.bring_back()

    def on_forward(self) -> None:
        """Has everything back before the model is called between two steps."""
        if not self._in_step:
            self._guard.touch("a call of the model")

    def close(self) -> None:
        """Brings everything back and removes all hooks; it may be called again."""
        self.bring_back()
        self._attached.close()
        self.limited.close()
