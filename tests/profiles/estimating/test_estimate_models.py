"""Networks that are hard to trace: values in their initialisers, checkpointing of both kinds."""

from collections.abc import Callable

import pytest
import torch
from monai.networks.nets import SwinUNETR, UNet
from torch.utils.checkpoint import checkpoint
from transformers import T5Config, T5ForConditionalGeneration

from profiles.hooks.workload import Workload
from tests.support.training.estimating import assert_same_step, estimated
from tests.support.training.fixed_times import record_at_fixed_times


def training(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Workload:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        return value.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def swin() -> Workload:
    """Asks for values while it is built, shifts windows, and checkpoints its blocks."""
    model = SwinUNETR(
        in_channels=1, out_channels=2, feature_size=12, depths=(1, 1, 1, 1), use_checkpoint=True
    )
    volume = torch.rand(1, 1, 64, 32, 32)
    return training(model, lambda: model(volume).square().mean())


def unet() -> Workload:
    model = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=2,
        channels=(4, 8),
        strides=(2,),
        num_res_units=2,
    )
    volume = torch.rand(1, 1, 16, 16, 16)
    return training(model, lambda: model(volume).square().mean())


def t5() -> Workload:
    config = T5Config(
        vocab_size=64,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    tokens = torch.randint(1, 64, (2, 16))
    return training(model, lambda: model(input_ids=tokens, labels=tokens, use_cache=False).loss)


def reentrant() -> Workload:
    """Checkpointing of the older kind, which runs a backward inside backward."""
    model = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Dropout(0.2), torch.nn.GELU())
    rows = torch.rand(8, 16)
    return training(
        model, lambda: checkpoint(model, rows.clone().requires_grad_(), use_reentrant=True).mean()
    )


MODELS = [swin, unet, t5, reentrant]


@pytest.mark.parametrize("build", MODELS)
def test_they_are_estimated_as_they_are_recorded(build: Callable[[], Workload]) -> None:
    torch.manual_seed(0)
    recording = record_at_fixed_times(build())
    assert_same_step(estimated(build), recording)


@pytest.mark.parametrize("build", MODELS)
def test_they_are_estimated_for_a_gpu(build: Callable[[], Workload]) -> None:
    assert estimated(build, "cuda").step_us > 0
