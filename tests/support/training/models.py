"""Small real training steps, one per thing a runtime can get wrong.

Each function seeds torch, builds, and returns a workload whose step draws a fresh batch from a
generator of its own, so that two workloads of one seed train bit by bit alike. Data-parallel
workers draw different batches.
"""

import os
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from profiles.hooks.workload import Workload

Loss = Callable[[torch.Generator], torch.Tensor]
"""Draws a batch and returns its loss."""


def seeded(number: int) -> torch.Generator:
    """Returns a generator of the default device: no other may draw numbers there."""
    return torch.Generator(torch.get_default_device()).manual_seed(number)


def training(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    *,
    micro_batches: int = 1,
    set_to_none: bool = True,
) -> Workload:
    """The usual step: clear gradients, backward over every micro-batch, update."""
    generator = seeded(int(os.environ.get("RANK", "0")) + 1)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=set_to_none)
        total = torch.zeros(())
        for _ in range(micro_batches):
            part = loss(generator) / micro_batches
            part.backward()
            total += part.detach()
        optimizer.step()
        return total

    return Workload(model=model, optimizer=optimizer, step=step)


def conv_block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, 3, padding=1),
        nn.InstanceNorm3d(channels_out, affine=True),
        nn.LeakyReLU(inplace=True),
    )


class UNet3d(nn.Module):
    """Its skip connections are held by a list in `forward`, out of autograd's sight."""

    def __init__(self, channels: int = 6, levels: int = 3) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(levels)]
        self.down = nn.ModuleList(
            conv_block(before, width) for before, width in zip([1, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            conv_block(widths[level] + widths[level - 1], widths[level - 1])
            for level in reversed(range(1, levels))
        )
        self.head = nn.Conv3d(channels, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        skips = []
        for block in self.down[:-1]:
            image = block(image)
            skips.append(image)
            image = functional.max_pool3d(image, 2)
        image = self.down[-1](image)
        for block in self.up:
            image = functional.interpolate(image, scale_factor=2.0)
            image = block(torch.cat([image, skips.pop()], dim=1))
        return self.head(image)


def unet3d(size: int = 24) -> Workload:
    """Few large activations, nested last-in first-out; Adam."""
    torch.manual_seed(0)
    model = UNet3d()

    def loss(generator: torch.Generator) -> torch.Tensor:
        image = torch.rand(1, 1, size, size, size, generator=generator)
        return functional.cross_entropy(model(image), (image[:, 0] > 0.5).long())

    return training(model, torch.optim.Adam(model.parameters(), lr=1e-3), loss)


def resnet() -> Workload:
    """In-place ReLU on what BatchNorm made, BatchNorm's buffers, SGD with momentum."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic", num_labels=5
    )
    model = ResNetForImageClassification(config)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True

    def loss(generator: torch.Generator) -> torch.Tensor:
        images = torch.rand(16, 3, 80, 80, generator=generator)
        labels = torch.randint(0, 5, (16,), generator=generator)
        return model(pixel_values=images, labels=labels).loss

    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    return training(model, optimizer, loss)


def gpt2(length: int = 96) -> Workload:
    """Tied embeddings, dropout from torch's global generator, AdamW."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    # The default special tokens lie outside so small a vocabulary, which transformers warns of.
    config = GPT2Config(
        bos_token_id=0,
        eos_token_id=0,
        vocab_size=256,
        n_positions=length,
        n_embd=96,
        n_layer=2,
        n_head=4,
        resid_pdrop=0.1,
    )
    model = GPT2LMHeadModel(config).train()

    def loss(generator: torch.Generator) -> torch.Tensor:
        tokens = torch.randint(0, 256, (4, length), generator=generator)
        return model(input_ids=tokens, labels=tokens).loss

    return training(model, torch.optim.AdamW(model.parameters(), lr=1e-3), loss)


class TwiceWithNeighbour(nn.Module):
    """Calls one module twice and writes beside what autograd saved.

    `halves` is one storage. Its first half is saved by the first product; then its second half is
    written in place, forward, before backward reads the first. Both go through `.data`, which
    gives each half a version counter of its own, so autograd has nothing to object to: only who
    watches the storage can see that it is used in between.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shared = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.ones(width))
        self.head = nn.Linear(width, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.shared(rows))
        halves = torch.zeros(2, *hidden.shape)
        first, second = halves.data[0], halves.data[1]
        first.copy_(hidden.detach())
        gated = self.scale * first + hidden
        hidden = torch.tanh(self.shared(gated))
        second.copy_(hidden.detach())
        return self.head(self.scale * second * hidden)


def twice_with_neighbour(rows: int = 2048, width: int = 128) -> Workload:
    """A module called twice, and an in-place op on a saved tensor's neighbour."""
    torch.manual_seed(0)
    model = TwiceWithNeighbour(width)

    def loss(generator: torch.Generator) -> torch.Tensor:
        inputs = torch.rand(rows, width, generator=generator)
        return functional.mse_loss(model(inputs), inputs.mean(dim=1, keepdim=True))

    return training(model, torch.optim.Adam(model.parameters(), lr=1e-3), loss)


def perceptron(width: int = 192, layers: int = 4) -> nn.Sequential:
    blocks: list[nn.Module] = []
    for _ in range(layers):
        blocks += [nn.Linear(width, width), nn.GELU()]
    return nn.Sequential(*blocks, nn.Linear(width, 1))


def perceptron_loss(model: nn.Module, rows: int = 1024, width: int = 192) -> Loss:
    def loss(generator: torch.Generator) -> torch.Tensor:
        inputs = torch.rand(rows, width, generator=generator)
        return functional.mse_loss(model(inputs), inputs.mean(dim=1, keepdim=True))

    return loss


def accumulating() -> Workload:
    """Two micro-batches per step: gradients are made by the first, added to by the second."""
    torch.manual_seed(0)
    model = perceptron()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return training(model, optimizer, perceptron_loss(model), micro_batches=2)


def kept_gradients() -> Workload:
    """`zero_grad(set_to_none=False)`: gradients live across steps and are zeroed in place."""
    torch.manual_seed(0)
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    return training(model, optimizer, perceptron_loss(model), set_to_none=False)


class Checkpointed(nn.Module):
    """Keeps a block's input only and runs the block again in backward."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(perceptron_block(width) for _ in range(blocks))
        self.head = nn.Linear(width, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            rows = rows + checkpoint(block, rows, use_reentrant=False)
        return self.head(rows)


def perceptron_block(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


def checkpointed(width: int = 192) -> Workload:
    """Activation checkpointing inside the model, non-reentrant: packs and unpacks interleave."""
    torch.manual_seed(0)
    model = Checkpointed(width, blocks=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return training(model, optimizer, perceptron_loss(model, width=width))


BUILDERS: dict[str, Callable[[], Workload]] = {
    build.__name__: build
    for build in (
        unet3d,
        resnet,
        gpt2,
        twice_with_neighbour,
        accumulating,
        kept_gradients,
        checkpointed,
    )
}
