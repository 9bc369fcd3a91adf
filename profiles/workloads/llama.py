"""Llama: 7b and 13b as in Touvron et al. 2023, arXiv:2307.09288; 1b, 3b and 8b as Llama 3.

The latter's shapes are those of the published configurations of Llama 3.2 1B and 3B and of Llama 3
8B.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Unpack

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from profiles.hooks.workload import Workload
from profiles.workloads.builtin import BF16
from profiles.workloads.next_token import next_token_training
from profiles.workloads.text import BYTES
from profiles.workloads.training_step import HowToTrain, checkpointed


class _Shape(NamedTuple):
    layers: int
    width: int
    inner: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool


SHAPES = {
    "tiny": _Shape(2, 64, 172, 4, 2, BYTES, False),
    "1b": _Shape(16, 2048, 8192, 32, 8, 128_256, True),
    "3b": _Shape(28, 3072, 8192, 24, 8, 128_256, True),
    "7b": _Shape(32, 4096, 11_008, 32, 32, 32_000, False),
    "8b": _Shape(32, 4096, 14_336, 32, 8, 128_256, False),
    "13b": _Shape(40, 5120, 13_824, 40, 40, 32_000, False),
}


def build(
    *,
    size: str,
    sequence: int,
    batch: int,
    dtype: str,
    checkpointing: str,
    **how: Unpack[HowToTrain],
) -> Workload:
    """Returns the training of a Llama; see `next_token_training`.

    Args:
        size: Which of the family.
        sequence: Tokens in a sample.
        batch: Samples in a step.
        dtype: Of parameters, gradients, optimizer states and most activations.
        checkpointing: A word of the `checkpointing` setting.
        how: See `HowToTrain`.
    """
    shape = SHAPES[size]
    config = LlamaConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_value_heads,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=sequence,
    )
    with _default_dtype(torch.bfloat16 if dtype == BF16 else torch.float32):
        model = LlamaForCausalLM(config)
    return next_token_training(
        checkpointed(model, checkpointing),
        sequence=sequence,
        batch=batch,
        **how,
    )


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Makes new parameters of this type at once: converting them later needs both at a time."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
