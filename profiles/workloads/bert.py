"""BERT, Devlin et al. 2018, arXiv:1810.04805."""

from typing import NamedTuple, Unpack

import torch
from transformers import BertConfig, BertForMaskedLM

from profiles.hooks.workload import Workload
from profiles.workloads.text import BYTES, text_batches
from profiles.workloads.training_step import HowToTrain, checkpointed, training


class _Shape(NamedTuple):
    layers: int
    width: int
    heads: int
    vocabulary: int


MASK_TOKEN = BYTES
"""The first token that is no byte."""
MASKED_SHARE = 0.15
"""Section 3.1."""
NOT_ASKED = -100
"""The class that cross entropy leaves out, here of tokens that were not masked."""
SHAPES = {
    "tiny": _Shape(2, 64, 2, BYTES + 1),
    "base": _Shape(12, 768, 12, 30_522),
    "large": _Shape(24, 1024, 16, 30_522),
}
INNER_PER_WIDTH = 4


def build(
    *,
    size: str,
    sequence: int,
    batch: int,
    dropout: float,
    checkpointing: str,
    **how: Unpack[HowToTrain],
) -> Workload:
    """Returns the training of a BERT that restores masked bytes.

    Args:
        size: Which of the family.
        sequence: Tokens in a sample.
        batch: Samples in a step.
        dropout: Share of values set to zero, after each layer and in its attention.
        checkpointing: A word of the `checkpointing` setting.
        how: See `HowToTrain`.
    """
    shape = SHAPES[size]
    config = BertConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.width,
        num_attention_heads=shape.heads,
        intermediate_size=INNER_PER_WIDTH * shape.width,
        vocab_size=shape.vocabulary,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        use_cache=False,
    )
    model = checkpointed(BertForMaskedLM(config), checkpointing)
    fetch = text_batches(batch, sequence)

    def loss() -> torch.Tensor:
        tokens = fetch()
        masked = torch.rand(tokens.shape, device=tokens.device) < MASKED_SHARE
        answers = tokens.masked_fill(~masked, NOT_ASKED)
        return model(input_ids=tokens.masked_fill(masked, MASK_TOKEN), labels=answers).loss

    return training(model, loss, **how)
