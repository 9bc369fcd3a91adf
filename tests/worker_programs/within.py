"""Trains a loop by two workers, without a budget and then within one, and leaves what each saw."""

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import runtime
from tests.support.loops.loop import layers
from tests.support.training.recorded import assert_same

STEPS = 40
WORKERS = 2


def trained(rank: int, settings: dict[str, Any] | None) -> tuple[nn.Module, dict[str, int]]:
    torch.manual_seed(0)
    model = DistributedDataParallel(layers(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    memory = None if settings is None else runtime.within(model, optimizer, **settings)
    for number in range(STEPS):
        dice = torch.Generator().manual_seed(WORKERS * number + rank)
        batch = torch.randn(256, 64, generator=dice)
        if memory is None:
            step(model, optimizer, batch)
            continue
        memory.wait_for_plans()
        with memory.step():
            step(model, optimizer, batch)
    if memory is None:
        return model, {}
    memory.close()
    return model, {way.value: count for way, count in memory.tally.items() if count}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss = (model(batch) - batch).square().mean()
    loss.backward()
    optimizer.step()


def work(rank: int, folder: Path) -> None:
    os.environ["RANK"] = str(rank)
    torch.set_num_threads(1)
    store = (folder / "store").as_uri()
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=WORKERS)
    plain, _ = trained(rank, None)
    settings = {"budget": "85%", "plans": folder / "plans", "time_limit_s": 5.0}
    seen = []
    for _ in range(2):
        found, tally = trained(rank, settings)
        assert_same(dict(plain.state_dict()), dict(found.state_dict()))
        seen.append(tally)
    (folder / f"worker-{rank}.json").write_text(json.dumps(seen))
    distributed.destroy_process_group()


def main(folder: Path) -> None:
    # Forked before torch has done anything: nothing to inherit but loaded modules.
    fork = multiprocessing.get_context("fork")
    workers = [
        fork.Process(target=work, args=(rank, folder), daemon=True) for rank in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(any(worker.exitcode for worker in workers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
