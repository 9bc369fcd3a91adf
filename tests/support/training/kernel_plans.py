"""Plans whose copies go by kernel, and a training that has bools and small storages to move."""

from collections.abc import Callable
from functools import cache

import torch
from torch import nn
from torch.nn import functional

from planner.plan.plan import Plan, PlannedStorage
from profiles.hooks.workload import Workload
from profiles.schema.link import CopyMethod, MethodRate
from profiles.schema.profile import Link, Profile, Provenance, WorkloadSource
from tests.support.planning.hardest_plans import everything_away, with_swaps
from tests.support.training.fixed_times import record_at_fixed_times

KIB = 1024
ROWS, WIDTH, LAYERS = 256, 96, 4
SMALL_BYTES = 64 * KIB
BATCHED = CopyMethod.BATCH_KERNEL
PACKED = CopyMethod.BITPACK_KERNEL


def method_rate(engine: CopyMethod, size_bytes: int, bytes_per_us: float) -> MethodRate:
    """The same both ways."""
    return MethodRate(
        engine=engine,
        size_bytes=size_bytes,
        together=1,
        d2h_bytes_per_us=bytes_per_us,
        h2d_bytes_per_us=bytes_per_us,
    )


def link_with_kernels(bytes_per_us: float = 1000.0, latency_us: float = 10.0) -> Link:
    """A link on which small copies are best by kernel, large ones by copy engine, masks as bits."""
    return Link(
        name="kernels",
        d2h_bytes_per_us=bytes_per_us,
        h2d_bytes_per_us=bytes_per_us,
        both_bytes_per_us=None,
        latency_us=latency_us,
        engines=(
            method_rate(CopyMethod.VECTOR_KERNEL, 4 * KIB, 500.0),
            method_rate(CopyMethod.VECTOR_KERNEL, 256 * KIB, 700.0),
            method_rate(BATCHED, 4 * KIB, 900.0),
            method_rate(BATCHED, 256 * KIB, 900.0),
            method_rate(PACKED, 4 * KIB, 400.0),
            method_rate(PACKED, 256 * KIB, 5000.0),
        ),
        provenance=Provenance.MEASURED,
    )


class Masking(nn.Module):
    """Keeps a bool for each number it lets pass, as dropout on a GPU does."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.where(rows > 0, rows, 0.01 * rows)


def masking() -> Workload:
    """Trains a perceptron with masks and small biases."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        layers += [nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), Masking()]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator("cpu").manual_seed(1)
    inputs = torch.rand(ROWS, WIDTH, generator=generator, device="cpu")
    inputs = inputs.to(torch.get_default_device())

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = functional.mse_loss(model(inputs), inputs.mean(dim=1, keepdim=True))
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


@cache
def masking_profile() -> Profile:
    """One step of it; recorded once. Plans are made from it."""
    source = WorkloadSource(reference="masking", settings=(), seed=0)
    return record_at_fixed_times(masking(), source=source, link=link_with_kernels())


def by_kernel(storage: PlannedStorage) -> CopyMethod:
    """Masks as bits, small storages in batches, the rest by the vector kernel."""
    if storage.is_mask:
        return PACKED
    return BATCHED if storage.size_bytes <= SMALL_BYTES else CopyMethod.VECTOR_KERNEL


def with_engines(plan: Plan, choose: Callable[[PlannedStorage], CopyMethod]) -> Plan:
    """The same swaps, carried by something else."""
    engines = {storage.id: choose(storage) for storage in plan.storages}
    return with_swaps(
        plan, (swap.model_copy(update={"engine": engines[swap.storage]}) for swap in plan.swaps)
    )


@cache
def kernel_plan() -> Plan:
    """The plan that moves whatever the masking training lets move, all of it by kernel."""
    return with_engines(everything_away(masking_profile()), by_kernel)
