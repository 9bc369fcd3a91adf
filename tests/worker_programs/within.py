"""Trains a loop by two workers, without a budget and then within one, and leaves what each saw.

It takes a folder, how the workers' model is shared among them, and the kind of their devices: `cpu`
or the asynchronous device, of which each has its own.
"""

import json
import multiprocessing
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import runtime
from profiles.hooks.data_parallel import backend_of
from profiles.schema.profile import CPU
from tests.device.accelerator import accelerator
from tests.support.loops.loop import TIME_LIMIT_S, layers
from tests.support.training.recorded import assert_same

STEPS = 40
WORKERS = 2
LINK = "pcie3-x16"


def data_parallel(device: torch.device) -> nn.Module:
    return DistributedDataParallel(layers(4).to(device))


def fully_sharded(device: torch.device) -> nn.Module:
    model = layers(4).to(device)
    mesh = init_device_mesh(device.type, (WORKERS,))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


SHARED = {"ddp": data_parallel, "ddp, no_sync": data_parallel, "fsdp2": fully_sharded}


def trained(
    how: str, rank: int, device: torch.device, settings: dict[str, Any] | None
) -> tuple[nn.Module, dict[str, int]]:
    torch.manual_seed(0)
    model = SHARED[how](device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    memory = None if settings is None else runtime.within(model, optimizer, **settings)
    for number in range(STEPS):
        dice = torch.Generator().manual_seed(WORKERS * number + rank)
        batch = torch.randn(256, 64, generator=dice).to(device)
        parts = batch.chunk(2) if how.endswith("no_sync") else (batch,)
        if memory is None:
            step(model, optimizer, parts)
            continue
        memory.wait_for_plans()
        with memory.step():
            step(model, optimizer, parts)
    if memory is None:
        return model, {}
    memory.close()
    replays = [course.replay for course in memory.courses.values()]
    fell_back = sum(replay.fallbacks for replay in replays if replay is not None)
    tally = {way.value: count for way, count in memory.tally.items() if count}
    return model, tally | ({"fell back": fell_back} if fell_back else {})


def numbers(model: nn.Module) -> dict[str, torch.Tensor]:
    """What this worker has of the parameters."""
    parameters = dict(model.named_parameters())
    return {
        name: value.to_local() if isinstance(value, DTensor) else value.detach()
        for name, value in parameters.items()
    }


def step(
    model: nn.Module, optimizer: torch.optim.Optimizer, parts: tuple[torch.Tensor, ...]
) -> None:
    """Gradients of all parts but the last are added up here, and sent with those of the last."""
    optimizer.zero_grad()
    for part in parts:
        is_last = part is parts[-1]
        with nullcontext() if is_last else model.no_sync():  # type: ignore[operator]
            loss = (model(part) - part).square().mean()
            loss.backward()
    optimizer.step()


def device_of(kind: str, rank: int) -> torch.device:
    if kind == CPU:
        return torch.device(kind)
    accelerator()
    torch.accelerator.set_device_index(rank)
    return torch.device(kind, rank)


def work(how: str, rank: int, kind: str, folder: Path) -> None:
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    device = device_of(kind, rank)
    store = (folder / "store").as_uri()
    distributed.init_process_group(
        backend_of(device.type), init_method=store, rank=rank, world_size=WORKERS
    )
    plain, _ = trained(how, rank, device, None)
    settings = {"budget": "85%", "plans": folder / f"plans-{rank}", "time_limit_s": TIME_LIMIT_S}
    if kind != CPU:
        # To measure one takes longer than all that is trained.
        settings["link"] = LINK
    seen = []
    for _ in range(2):
        found, tally = trained(how, rank, device, settings)
        assert_same(numbers(plain), numbers(found))
        seen.append(tally)
    (folder / f"worker-{rank}.json").write_text(json.dumps(seen))
    distributed.destroy_process_group()


def main(folder: Path, how: str, kind: str) -> None:
    # Forked before torch has done anything: nothing to inherit but loaded modules, among them the
    # one that each worker's first optimizer would load.
    fork = multiprocessing.get_context("fork")
    workers = [
        fork.Process(target=work, args=(how, rank, kind, folder), daemon=True)
        for rank in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(any(worker.exitcode for worker in workers))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
