"""Full activation checkpointing of the built-in workloads' blocks, as a baseline."""

import re
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

BLOCKS = {
    "bert": r"bert\.encoder\.layer\.\d+",
    "gpt2": r"transformer\.h\.\d+",
    "llama": r"model\.layers\.\d+",
    "resnet50": r"resnet\.encoder\.stages\.\d+\.layers\.\d+",
    "unet3d": r"(conv_0|down_\d+|upcat_\d+)",
    "vit": r"vit\.layers\.\d+",
}
"""Names of the modules whose insides are computed again in backward, by workload."""


def checkpoint_blocks(reference: str, model: torch.nn.Module) -> int:
    """Has the blocks of a model keep their inputs only; returns how many there are."""
    pattern = re.compile(BLOCKS[reference])
    blocks = [module for name, module in model.named_modules() if pattern.fullmatch(name)]
    for block in blocks:
        forward = partial(checkpoint, block.forward, use_reentrant=False)
        setattr(block, "forward", forward)  # noqa: B010
    return len(blocks)
