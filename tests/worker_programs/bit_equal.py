"""Trains cases without their plans, then with them, by workers of several numbers.

It takes a folder with a plan for each case, and the names of the cases by number of workers, and
leaves there what each worker saw.
"""

import hashlib
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
from torch import distributed

import runtime
from profiles.hooks.data_parallel import unwrapped
from profiles.hooks.workload import Workload
from tests.support.training.recorded import assert_same, snapshot, without_update
from tests.worker_programs.cases import CASES

STEPS, SKIPPING = 5, 3
"""How many, and the number of the one that skips its update, as a loss scaler has it."""


def train_both(name: str, plan: Path) -> dict[str, Any]:
    plain, workload = CASES[name](), CASES[name]()
    # Dropout draws from the generator that the whole process shares.
    torch.manual_seed(7)
    losses = [step_of(plain, number).item() for number in range(STEPS)]
    torch.manual_seed(7)
    with runtime.load(plan).attach(workload.model, workload.optimizer) as replay:
        found = []
        for number in range(STEPS):
            with replay.step():
                loss = step_of(workload, number)
            # Held until the next one is there, as recording holds it.
            found.append(loss.item())
    assert_same(snapshot(plain), snapshot(workload))
    return {
        "losses": losses,
        "losses_with_plan": found,
        "fallbacks": [step.fallback for step in replay.steps],
        "shortcuts": [step.step for step in replay.steps if step.shortcut is not None],
        "moved_bytes": replay.steps[-1].d2h_bytes,
        "peak_bytes": max(step.peak_bytes or 0 for step in replay.steps),
        "parameters": parameters_digest(workload.model),
    }


def step_of(workload: Workload, number: int) -> torch.Tensor:
    if number != SKIPPING:
        return workload.step()
    with without_update(workload.optimizer):
        return workload.step()


def parameters_digest(model: torch.nn.Module) -> str:
    numbers = [p.detach().flatten() for p in unwrapped(model).parameters()]
    return hashlib.sha256(torch.cat(numbers).numpy().tobytes()).hexdigest()


def work(rank: int, count: int, names: list[str], folder: Path) -> None:
    os.environ["RANK"] = str(rank)
    torch.set_num_threads(1)
    store = (folder / f"store-{count}").as_uri()
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
    seen = {name: train_both(name, folder / f"{name}.plan.json") for name in names}
    (folder / f"worker-{rank}-of-{count}.json").write_text(json.dumps(seen))
    distributed.destroy_process_group()


def main(folder: Path, names_by_count: dict[str, list[str]]) -> None:
    # Forked before torch has done anything: nothing to inherit but loaded modules, among them the
    # one that each worker's first optimizer would load.
    fork = multiprocessing.get_context("fork")
    for count, names in names_by_count.items():
        workers = [
            fork.Process(target=work, args=(rank, int(count), names, folder), daemon=True)
            for rank in range(int(count))
        ]
        for worker in workers:
            worker.start()
        # One that fails takes the others along: they lose their connection to it.
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            sys.exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
