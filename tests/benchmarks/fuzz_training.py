"""Edited plans that a reader accepts, trained: never another number, never a crash.

    python -m tests.benchmarks.fuzz_training --count 2000 --seconds 900

Each plan is attached to a fresh model and replayed for some steps; losses and everything that
training keeps must be bit-equal to the same steps without a plan. A plan may be refused when it is
attached, or a step may fall back. The training runs in a process of its own, so that a crash is
seen, and is ended if one plan takes too long. The same seed gives the same plans.
"""

import argparse
import logging
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch

from planner.plan.plan import Boundary, Plan
from planner.solving import solve
from profiles.hooks.workload import Workload
from profiles.schema.errors import PlanMismatchError
from profiles.schema.profile import Profile
from runtime.replay.load import LoadedPlan
from runtime.storage.accountant import EmulatedOutOfMemoryError
from tests.benchmarks.processes import CrashError, HangError, messages_of
from tests.support.planning.hardest_plans import (
    everything_away,
    leaving_at_boundary,
    periodic,
    returning_at_boundary,
)
from tests.support.planning.plan_edits import edited_plans
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.models import training
from tests.support.training.recorded import differing, snapshot

STEPS = 4
BATCH = 250
LIMIT_S = 120.0
"""Kernels that an edited plan asks for are compiled first."""

Numbers = tuple[list[float], dict[str, torch.Tensor]]


class Trained(NamedTuple):
    """What came of one edited plan.

    Attributes:
        number: Which plan of its batch.
        outcome: In a word.
        fault: What must not have happened, if anything.
        plan: The plan, where there is a fault.
    """

    number: int
    outcome: str
    fault: str | None
    plan: str | None


def workload() -> Workload:
    """A step with parameters, buffers, masks, gradients and states, and one that is read twice."""
    torch.manual_seed(0)
    first = torch.nn.Linear(24, 24)
    model = torch.nn.Sequential(
        first,
        torch.nn.BatchNorm1d(24),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.1),
        torch.nn.Linear(24, 24),
        torch.nn.GELU(),
        first,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def loss(generator: torch.Generator) -> torch.Tensor:
        inputs = torch.randn(24, 24, generator=generator)
        return (model(inputs) - inputs).square().mean()

    return training(model, optimizer, loss)


def plans() -> list[Plan]:
    """Sound plans of different kinds."""
    profile = record_at_fixed_times(workload())
    around = periodic(profile)
    return [
        _solved(profile, 0.7),
        _solved(profile, 0.85),
        everything_away(profile, boundary=Boundary.RESIDENT),
        around,
        leaving_at_boundary(around),
        returning_at_boundary(around),
    ]


def _solved(profile: Profile, share: float) -> Plan:
    peak_bytes = profile.peak_bytes
    return solve(profile, budget_bytes=int(share * peak_bytes), min_size_bytes=1, time_limit_s=5.0)


def numbers_of(trained: Workload, losses: list[float]) -> Numbers:
    """Everything that training keeps."""
    return losses, snapshot(trained)


def untouched() -> Numbers:
    """The numbers without a plan."""
    trained = workload()
    torch.manual_seed(1)
    return numbers_of(trained, [trained.step().item() for _ in range(STEPS)])


def replayed(plan: Plan) -> tuple[Numbers, int]:
    """The numbers with a plan, and how many steps fell back."""
    trained = workload()
    torch.manual_seed(1)
    with LoadedPlan(plan).attach(trained.model, trained.optimizer) as replay:
        losses = []
        for _ in range(STEPS):
            with replay.step():
                loss = trained.step()
            losses.append(loss.item())
        fallbacks = replay.fallbacks
    return numbers_of(trained, losses), fallbacks


def differs(one: Numbers, other: Numbers) -> bool:
    """Whether any bit differs."""
    (losses, tensors), (other_losses, other_tensors) = one, other
    return (
        losses != other_losses
        or tensors.keys() != other_tensors.keys()
        or differing(tensors, other_tensors) != []
    )


def tried(plan: Plan, expected: Numbers) -> tuple[str, str | None]:
    """Trains with one plan."""
    try:
        found, fallbacks = replayed(plan)
    except PlanMismatchError as error:
        return "refused", f"not one line: {error}" if "\n" in str(error) else None
    except EmulatedOutOfMemoryError:
        # The step needs more than the edited plan says, and the budget holds.
        return "over budget", None
    except Exception:
        return "failed", traceback.format_exc()
    outcome = "replayed" if fallbacks == 0 else "fell back"
    return outcome, "other numbers" if differs(found, expected) else None


def run_batch(plan: Plan, seed: int, first: int, results: Connection) -> None:
    """Trains with edited plans, in a process of its own, from some number on."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    expected = untouched()
    for number, edited in islice(enumerate(edited_plans(plan, seed)), first, BATCH):
        results.send(Trained(number, "begun", None, edited.model_dump_json()))
        outcome, fault = tried(edited, expected)
        results.send(Trained(number, outcome, fault, edited.model_dump_json() if fault else None))
    results.send(None)


def outcomes_of(plan: Plan, seed: int) -> Iterator[Trained]:
    """Trains with a batch of edited plans; after a crash goes on with the next one."""
    first = 0
    while first < BATCH:
        begun: Trained | None = None
        try:
            for message in messages_of(
                run_batch, plan, seed, first, limit_s=LIMIT_S, first_limit_s=10 * LIMIT_S
            ):
                if message.outcome == "begun":
                    begun = message
                else:
                    yield message
        except (CrashError, HangError) as error:
            if begun is None:
                raise
            yield begun._replace(outcome="failed", fault=str(error))
            first = begun.number + 1
        else:
            return


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what came of the plans; 1 if anything did that must not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="how many plans")
    parser.add_argument("--seconds", type=float, default=900.0, help="at most so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", default=None, help="prefix of files for plans with a fault")
    options = parser.parse_args(argv)
    given = plans()
    total: Counter[str] = Counter()
    found = 0
    started_s = time.monotonic()
    for batch in range(-(-options.count // BATCH)):
        if time.monotonic() - started_s > options.seconds:
            break
        for trained in outcomes_of(given[batch % len(given)], options.seed + batch):
            total[trained.outcome] += 1
            if trained.fault is not None:
                found += 1
                where = f"plan {batch % len(given)}, seed {options.seed + batch}"
                print(f"FAULT {where}, {trained.number}: {trained.fault}", flush=True)
                if options.keep is not None and trained.plan is not None:
                    with open(f"{options.keep}{found}.plan.json", "w") as file:
                        file.write(trained.plan)
        print(dict(total), flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
