"""Training a transformers model to say which byte of a text comes next."""

from typing import Unpack

import torch

from profiles.hooks.workload import Workload
from profiles.workloads.text import text_batches
from profiles.workloads.training_step import HowToTrain, training


def next_token_training(
    model: torch.nn.Module, *, sequence: int, batch: int, **how: Unpack[HowToTrain]
) -> Workload:
    """Returns the training of a causal language model on the standard library's sources.

    Args:
        model: A transformers model that takes tokens and returns logits.
        sequence: Tokens in a sample.
        batch: Samples in a step.
        how: See `HowToTrain`.
    """
    fetch = text_batches(batch, sequence)

    def loss() -> torch.Tensor:
        tokens = fetch()
        return model(input_ids=tokens, labels=tokens, use_cache=False).loss

    return training(model, loss, **how)
