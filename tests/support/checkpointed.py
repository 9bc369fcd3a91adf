"""Small models whose blocks are checkpointed, in every way that torch has for it."""

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import nn
from torch.distributed._composable.checkpoint_activation import checkpoint as composable
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    checkpoint_wrapper,
)
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from profiles.hooks.workload import Workload

ROWS, WIDTH, BLOCKS = 128, 32, 4

Run = Callable[..., torch.Tensor]


class Block(nn.Module):
    """A residual block; it counts how often it is run.

    Attributes:
        runs: Times that it was run, with gradients wanted or not.
    """

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.runs = 0

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Runs it."""
        self.runs += 1
        hidden = torch.nn.functional.gelu(self.up(self.norm(rows)))
        return rows + self.dropout(self.down(hidden))


class Blocks(nn.Module):
    """Blocks between two layers, each run by `run`."""

    def __init__(self, run: Run, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.Sequential(*[Block(dropout) for _ in range(BLOCKS)])
        self.run = run

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Runs them."""
        return self.last(self.run_blocks(self.first(rows)))

    def run_blocks(self, rows: torch.Tensor) -> torch.Tensor:
        """Runs what is between the two layers."""
        for block in self.blocks:
            rows = self.run(block, rows)
        return rows

    @property
    def runs(self) -> int:
        """How often the blocks were run, all together."""
        return sum(block.runs for block in self.modules() if isinstance(block, Block))


class InSegments(Blocks):
    """Blocks that are run by `checkpoint_sequential`."""

    def run_blocks(self, rows: torch.Tensor) -> torch.Tensor:
        """Runs them."""
        return self.run(self.blocks, 2, rows)


def plainly(block: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Runs a block that is not checkpointed, or sees to it itself."""
    return cast("torch.Tensor", block(rows))


def _wrapped(change: Callable[[nn.Module], nn.Module], dropout: float = 0.0) -> Blocks:
    model = Blocks(plainly, dropout)
    for number, block in enumerate(model.blocks):
        model.blocks[number] = change(block)
    return model


def _by_wrapper(kind: CheckpointImpl, dropout: float = 0.0) -> Blocks:
    return _wrapped(lambda block: checkpoint_wrapper(block, checkpoint_impl=kind), dropout)


KINDS: dict[str, Callable[..., Blocks]] = {
    "not reentrant": partial(Blocks, partial(checkpoint, use_reentrant=False)),
    "reentrant": partial(Blocks, partial(checkpoint, use_reentrant=True)),
}
"""The two that there are."""
WAYS: dict[str, Callable[..., Blocks]] = {
    **KINDS,
    "in segments": partial(InSegments, partial(checkpoint_sequential, use_reentrant=False)),
    "in segments, reentrant": partial(
        InSegments, partial(checkpoint_sequential, use_reentrant=True)
    ),
    "wrapped": partial(_by_wrapper, CheckpointImpl.NO_REENTRANT),
    "wrapped, reentrant": partial(_by_wrapper, CheckpointImpl.REENTRANT),
    "composable": partial(_wrapped, composable),
}
"""The two, and what comes to them."""


def workload(
    make: Callable[..., Blocks], *, dropout: float = 0.0, autocast: bool = False
) -> Workload:
    """Returns a workload that trains such a model."""
    torch.manual_seed(0)
    model = make(dropout=dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, foreach=False)
    batch = torch.randn(ROWS, WIDTH)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = (model(batch).float() - batch).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)
