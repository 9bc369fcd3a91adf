"""Keeps `transformers.Trainer`, and what is built on it, within a budget.

[Note: steps of a Trainer] `on_step_begin` comes before the first of the micro-batches that make one
update, `on_step_end` after it, before anything is logged, saved or evaluated. An exception comes
past both: the step is then ended when the next one begins, or training does.
"""

from typing import Any

import torch
from transformers import TrainerCallback

from runtime.training.planned_training import PlannedTraining
from runtime.training.within import within


class TransformersCallback(TrainerCallback):
    """A callback of `transformers.Trainer`, `trl.SFTTrainer` and the like.

        Trainer(..., callbacks=[runtime.TransformersCallback(budget="14GiB", plans="plans")])

    Attributes:
        memory: What keeps the training within its budget; None before it begins.
    """

    def __init__(self, **settings: Any) -> None:
        """Takes what `runtime.within` takes beside the model and the optimizer."""
        self.memory: PlannedTraining | None = None
        self._settings = settings

    def on_train_begin(
        self,
        *_: Any,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        **__: Any,
    ) -> None:
        """Attaches to the model; the Trainer hands over its own wrapper of the optimizer."""
        self._close()
        self.memory = within(model, optimizer, **self._settings)

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Begins a step: all the micro-batches of an update."""
        assert self.memory is not None
        self.memory.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Ends it."""
        assert self.memory is not None
        self.memory.end()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Brings everything back."""
        self._close()

    def _close(self) -> None:
        if self.memory is not None:
            self.memory.close()
