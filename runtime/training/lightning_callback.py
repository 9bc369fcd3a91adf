"""Keeps `lightning.Trainer` within a budget.

[Note: steps of Lightning] With automatic optimization forward, `zero_grad` and backward run inside
`optimizer.step(closure)`, and batches that only accumulate run the closure alone. A step here is
all the batches of one update: from the first of them until the update that follows. With manual
optimization it is one batch, whatever optimizers that calls.
"""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from runtime.training.planned_training import PlannedTraining
from runtime.training.within import within


class LightningCallback(Callback):
    """A callback of `lightning.Trainer`.

        Trainer(..., callbacks=[runtime.LightningCallback(budget="14GiB", plans="plans")])

    Attributes:
        memory: What keeps the training within its budget; None before it begins.
    """

    def __init__(self, **settings: Any) -> None:
        """Takes what `runtime.within` takes beside the model and the optimizer."""
        self.memory: PlannedTraining | None = None
        self._settings = settings
        self._is_open = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attaches to the module and its optimizers."""
        self._close()
        self.memory = within(pl_module, trainer.optimizers, **self._settings)

    def on_train_batch_start(self, *_: Any) -> None:
        """Begins a step, unless the last update is still to come."""
        if not self._is_open:
            assert self.memory is not None
            self.memory.begin()
            self._is_open = True

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Ends the step if this batch was the last of its update."""
        # Lightning asks the same: accumulated enough, or the last batch of the epoch.
        loop = trainer.fit_loop.epoch_loop
        if not loop._should_accumulate():
            self._end()

    def on_train_end(self, *_: Any) -> None:
        """Brings everything back."""
        self._close()

    def on_exception(self, *_: Any) -> None:
        """Brings everything back, whatever was raised."""
        self._close()

    def _end(self) -> None:
        if self.memory is not None and self._is_open:
            self._is_open = False
            self.memory.end()

    def _close(self) -> None:
        self._is_open = False
        if self.memory is not None:
            self.memory.close()
