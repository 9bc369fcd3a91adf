"""Language models (transformers) trained on real text with no download: Python's own sources."""

import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from profiles.hooks.workload import Workload
from profiles.workloads.settings import BF16
from profiles.workloads.training_step import HowToTrain, checkpointed, training

BYTES = 256
"""Tokens are bytes. A model with a larger vocabulary never sees the rest of it."""
BATCHES = 4
"""Batches there are before the first one comes again."""


class _Shape(NamedTuple):
    layers: int
    width: int
    heads: int
    vocabulary: int


class _LlamaShape(NamedTuple):
    """Fields of a `LlamaConfig`."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool


GPT2_SHAPES = {
    "tiny": _Shape(2, 64, 2, BYTES),
    "small": _Shape(12, 768, 12, 50_257),
    "medium": _Shape(24, 1024, 16, 50_257),
    "large": _Shape(36, 1280, 20, 50_257),
    "xl": _Shape(48, 1600, 25, 50_257),
}
"""Radford et al. 2019, Language Models are Unsupervised Multitask Learners, table 2."""
BERT_SHAPES = {
    "tiny": _Shape(2, 64, 2, BYTES + 1),
    "base": _Shape(12, 768, 12, 30_522),
    "large": _Shape(24, 1024, 16, 30_522),
}
"""Devlin et al. 2018, arXiv:1810.04805."""
LLAMA_SHAPES = {
    "tiny": _LlamaShape(2, 64, 172, 4, 2, BYTES, False),
    "1b": _LlamaShape(16, 2048, 8192, 32, 8, 128_256, True),
    "3b": _LlamaShape(28, 3072, 8192, 24, 8, 128_256, True),
    "7b": _LlamaShape(32, 4096, 11_008, 32, 32, 32_000, False),
    "8b": _LlamaShape(32, 4096, 14_336, 32, 8, 128_256, False),
    "13b": _LlamaShape(40, 5120, 13_824, 40, 40, 32_000, False),
}
"""7b and 13b as in Touvron et al. 2023, arXiv:2307.09288; 1b, 3b and 8b as in the published
configurations of Llama 3.2 1B and 3B and of Llama 3 8B."""
BERT_INNER_PER_WIDTH = 4
MASK_TOKEN = BYTES
"""The first token that is no byte."""
MASKED_SHARE = 0.15
"""Devlin et al., section 3.1."""
NOT_ASKED = -100
"""The class that cross entropy leaves out, here of tokens that were not masked."""


class TextTraining(HowToTrain):
    """Values of the settings that every language model has."""

    sequence: int


def gpt2(*, size: str, dropout: float, checkpointing: str, **how: Unpack[TextTraining]) -> Workload:
    """Returns the training of a GPT-2; dropout is after attention, in it and on the embeddings."""
    shape = GPT2_SHAPES[size]
    config = GPT2Config(
        n_layer=shape.layers,
        n_embd=shape.width,
        n_head=shape.heads,
        vocab_size=shape.vocabulary,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
    )
    model = GPT2LMHeadModel(config)
    # transformers does not know this class's loss by its name, and would say so at each start.
    model.loss_type = "ForCausalLM"
    return next_token_training(checkpointed(model, checkpointing), how)


def llama(*, size: str, dtype: str, checkpointing: str, **how: Unpack[TextTraining]) -> Workload:
    """Returns the training of a Llama, its parameters and most activations of a `dtype`."""
    config = LlamaConfig(**LLAMA_SHAPES[size]._asdict(), max_position_embeddings=how["sequence"])
    with _default_dtype(torch.bfloat16 if dtype == BF16 else torch.float32):
        model = LlamaForCausalLM(config)
    return next_token_training(checkpointed(model, checkpointing), how)


def bert(*, size: str, dropout: float, checkpointing: str, **how: Unpack[TextTraining]) -> Workload:
    """Returns the training of a BERT; dropout is after each layer and in its attention."""
    shape = BERT_SHAPES[size]
    config = BertConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.width,
        num_attention_heads=shape.heads,
        intermediate_size=BERT_INNER_PER_WIDTH * shape.width,
        vocab_size=shape.vocabulary,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        use_cache=False,
    )
    model = checkpointed(BertForMaskedLM(config), checkpointing)
    fetch = text_batches(how["batch"], how["sequence"])

    def loss() -> torch.Tensor:
        tokens = fetch()
        masked = torch.rand(tokens.shape, device=tokens.device) < MASKED_SHARE
        answers = tokens.masked_fill(~masked, NOT_ASKED)
        return model(input_ids=tokens.masked_fill(masked, MASK_TOKEN), labels=answers).loss

    return training(model, loss, how)


def next_token_training(model: torch.nn.Module, how: TextTraining) -> Workload:
    """Returns the training of a causal transformers model to say which byte of a text is next."""
    fetch = text_batches(how["batch"], how["sequence"])

    def loss() -> torch.Tensor:
        tokens = fetch()
        return model(input_ids=tokens, labels=tokens, use_cache=False).loss

    return training(model, loss, how)


def text_batches(batch: int, sequence: int) -> Callable[[], torch.Tensor]:
    """Returns a function that fetches the next batch of tokens, int64 [batch, sequence]."""
    tokens = batch * sequence
    # As bytes until they are fetched: the text is an eighth of what int64 would take.
    text = torch.tensor(_sources(BATCHES * tokens))
    fetched = 0

    def fetch() -> torch.Tensor:
        nonlocal fetched
        start = fetched % BATCHES * tokens
        fetched += 1
        return text[start : start + tokens].view(batch, sequence).long()

    return fetch


def _sources(size_bytes: int) -> np.ndarray:
    """Returns the first bytes of the sources, uint8, from the start again where they end."""
    text = bytearray()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text += path.read_bytes()
        if len(text) >= size_bytes:
            break
    return np.resize(np.frombuffer(bytes(text), dtype=np.uint8), size_bytes)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Makes new parameters of this type at once: converting them later needs both at a time."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
