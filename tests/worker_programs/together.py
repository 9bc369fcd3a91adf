"""Run by torchrun on two workers: what they do when one of them is not as the other.

It takes a folder with the plans `own_script.plan.json` and `other.plan.json`, and leaves there
what each worker saw.
"""

import json
import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import distributed

import runtime
from profiles.schema.errors import SwapplanError
from tests.support.training.recorded import assert_same, snapshot
from tests.worker_programs.own_script import training


def refusal(folder: Path, plans: tuple[str, str]) -> str:
    """The message a worker gets when the two load these plans."""
    workload = training()
    loaded = runtime.load(folder / plans[distributed.get_rank()])
    try:
        loaded.attach(workload.model, workload.optimizer).close()
    except SwapplanError as error:
        return str(error)
    return ""


def smallest_budget(folder: Path) -> int:
    """The budget all train under when worker 1 brings a smaller one: seen where it is enforced."""
    workload = training()
    plan = runtime.load_on_first(folder / "own_script.plan.json").plan
    less_bytes = plan.budget_bytes - distributed.get_rank()
    mine = runtime.LoadedPlan(plan.model_copy(update={"budget_bytes": less_bytes}))
    with mine.attach(workload.model, workload.optimizer) as replay:
        try:
            for _ in range(3):
                with replay.step():
                    # Held until the next one is there, as recording holds it.
                    loss = workload.step()
            del loss
        except torch.OutOfMemoryError:
            return less_bytes
    return -1


def odd_batch(folder: Path) -> dict[str, Any]:
    """Worker 1 trains one step on another number of rows."""
    odd = {2: 128} if distributed.get_rank() == 1 else None
    plain, workload = training(odd), training(odd)
    with (
        warnings.catch_warnings(record=True) as caught,
        runtime.load_on_first(folder / "own_script.plan.json").attach(
            workload.model, workload.optimizer
        ) as replay,
    ):
        warnings.simplefilter("always")
        for _ in range(5):
            plain.step()
            with replay.step():
                workload.step()
    assert_same(snapshot(plain), snapshot(workload))
    return {
        "fallbacks": [step.fallback for step in replay.steps],
        "count": replay.fallbacks,
        "warnings": [str(warning.message) for warning in caught],
        "steps": [step.step for step in replay.steps],
    }


def raising(folder: Path) -> list[str | None]:
    """Worker 1's optimizer refuses once, when all gradients have been shared; training goes on."""

    class Refusal(Exception):
        pass

    def refuse(*_: object) -> None:
        raise Refusal

    workload = training()
    with (
        warnings.catch_warnings(),
        runtime.load(folder / "own_script.plan.json").attach(
            workload.model, workload.optimizer
        ) as replay,
    ):
        warnings.simplefilter("ignore", runtime.FallbackWarning)
        for number in range(4):
            refuses = number == 1 and distributed.get_rank() == 1
            handle = workload.optimizer.register_step_pre_hook(refuse) if refuses else None
            try:
                with replay.step():
                    workload.step()
            except Refusal:
                assert handle is not None
                handle.remove()
    return [step.fallback for step in replay.steps]


def killed(folder: Path) -> None:
    """Worker 1 is killed inside a step, with storages away; this does not return on any worker."""
    workload = training()
    with runtime.load(folder / "own_script.plan.json").attach(
        workload.model, workload.optimizer
    ) as replay:
        with replay.step():
            workload.step()
        last = list(workload.model.parameters())[-1]
        if distributed.get_rank() == 1:
            last.register_hook(lambda _: os.kill(os.getpid(), signal.SIGKILL))
        with replay.step():
            workload.step()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    own, other = "own_script.plan.json", "other.plan.json"
    seen = {
        "another plan": refusal(folder, (own, other)),
        "a plan for another model": refusal(folder, ("unet3d.plan.json", own)),
        "budget": smallest_budget(folder),
        "odd batch": odd_batch(folder),
        "raising": raising(folder),
    }
    (folder / f"together-{distributed.get_rank()}.json").write_text(json.dumps(seen))
    distributed.barrier()
    killed(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
