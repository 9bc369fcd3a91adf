"""Ways in which people write a training step, each on torch's default device.

All must replay bit for bit: the runtime may not care which of them it meets.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from profiles.hooks.workload import Workload

ROWS = 512
WIDTH = 256
LAYERS = 4


ONE_BY_ONE = partial(torch.optim.AdamW, lr=1e-3, foreach=False)
ALL_TOGETHER = partial(torch.optim.AdamW, lr=1e-3, foreach=True)
IN_ONE_KERNEL = partial(torch.optim.AdamW, lr=1e-3, fused=True)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to write the step.

    Attributes:
        optimizer: Makes the optimizer of some parameters.
        micro_batches: Backward passes for each update.
        set_to_none: What `zero_grad` does with gradients.
        clips: Whether gradients are clipped by their norm.
        mixed: Whether the forward pass runs under autocast, with a scaled loss.
    """

    optimizer: Callable[..., torch.optim.Optimizer] = ONE_BY_ONE
    micro_batches: int = 1
    set_to_none: bool = True
    clips: bool = False
    mixed: bool = False


VARIANTS = {
    "plain": Variant(),
    "foreach": Variant(optimizer=ALL_TOGETHER),
    "fused": Variant(optimizer=IN_ONE_KERNEL),
    "kept gradients": Variant(set_to_none=False),
    "accumulated": Variant(micro_batches=3),
    "clipped": Variant(clips=True),
    "autocast with a scaler": Variant(mixed=True),
    "all at once": Variant(
        optimizer=ALL_TOGETHER, micro_batches=2, set_to_none=False, clips=True, mixed=True
    ),
}


def build_variant(variant: Variant) -> Workload:
    """Builds the training of a perceptron with dropout, from one seed, on the default device."""
    torch.manual_seed(0)
    device = torch.get_default_device()
    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        layers += [nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.GELU(), nn.Dropout(0.1)]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 1))
    optimizer = variant.optimizer(model.parameters())
    rows = torch.rand(variant.micro_batches, ROWS, WIDTH)
    scaler = torch.amp.GradScaler(device.type, init_scale=256.0, enabled=variant.mixed)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=variant.set_to_none)
        losses = []
        for batch in rows:
            with _casting(variant, device):
                output = model(batch)
            loss = functional.mse_loss(output.float(), batch.mean(dim=1, keepdim=True))
            scaler.scale(loss / variant.micro_batches).backward()
            losses.append(loss.detach())
        if variant.clips:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        scaler.step(optimizer)
        scaler.update()
        return torch.stack(losses).mean()

    return Workload(model=model, optimizer=optimizer, step=step)


def _casting(variant: Variant, device: torch.device) -> AbstractContextManager[object]:
    if not variant.mixed:
        return nullcontext()
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype)
