"""GPT-2, Radford et al. 2019, Language Models are Unsupervised Multitask Learners, table 2."""

from typing import NamedTuple, Unpack

from transformers import GPT2Config, GPT2LMHeadModel

from profiles.hooks.workload import Workload
from profiles.workloads.next_token import next_token_training
from profiles.workloads.text import BYTES
from profiles.workloads.training_step import HowToTrain, checkpointed


class _Shape(NamedTuple):
    layers: int
    width: int
    heads: int
    vocabulary: int


VOCABULARY = 50_257
SHAPES = {
    "tiny": _Shape(2, 64, 2, BYTES),
    "small": _Shape(12, 768, 12, VOCABULARY),
    "medium": _Shape(24, 1024, 16, VOCABULARY),
    "large": _Shape(36, 1280, 20, VOCABULARY),
    "xl": _Shape(48, 1600, 25, VOCABULARY),
}


def build(
    *,
    size: str,
    sequence: int,
    batch: int,
    dropout: float,
    checkpointing: str,
    **how: Unpack[HowToTrain],
) -> Workload:
    """Returns the training of a GPT-2; see `next_token_training`.

    Args:
        size: Which of the family.
        sequence: Tokens in a sample.
        batch: Samples in a step.
        dropout: Share of values set to zero, after attention, in it and on the embeddings.
        checkpointing: A word of the `checkpointing` setting.
        how: See `HowToTrain`.
    """
    shape = SHAPES[size]
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
    return next_token_training(
        checkpointed(model, checkpointing),
        sequence=sequence,
        batch=batch,
        **how,
    )
