"""Random trainings on the device, under random plans, over random links, with random delays."""

import itertools
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from planner.plan.plan import Boundary, Plan
from profiles.hardware.links import nominal_link
from profiles.hooks.workload import Workload
from profiles.recording.device import build_on
from profiles.schema.profile import Profile
from runtime import OffPlan
from runtime.replay.statistics import FallbackWarning
from tests.device.races import races
from tests.device.trainings import Numbers, plan_within, recorded, replayed, resident
from tests.device.trial_device import trial_device
from tests.support.planning.hardest_plans import (
    everything_away,
    leaving_at_boundary,
    overlapping,
    periodic,
    returning_at_boundary,
)
from tests.support.planning.recipes import with_rebuilds

STEPS = 5
SOLVE_SECONDS = 0.5


def _periodic(profile: Profile) -> Plan:
    return everything_away(profile, boundary=Boundary.PERIODIC)


PLANS: dict[str, Callable[[Profile], Plan]] = {
    "everything away": everything_away,
    "periodic": periodic,
    "leaving": lambda profile: leaving_at_boundary(_periodic(profile)),
    "returning": lambda profile: returning_at_boundary(_periodic(profile)),
    "overlapping": lambda profile: overlapping(everything_away(profile)),
    "rebuilt": lambda profile: with_rebuilds(profile, swapping=True),
}
LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda width: nn.Linear(width, width),
    "norm": nn.LayerNorm,
    "batch norm": nn.BatchNorm1d,
    "gelu": lambda _: nn.GELU(),
    "relu in place": lambda _: nn.ReLU(inplace=True),
    "dropout": lambda _: nn.Dropout(0.3),
}


class Block(nn.Module):
    """Some layers, perhaps with a shortcut, perhaps checkpointed."""

    def __init__(self, body: nn.Sequential, *, shortcut: bool, checkpointed: bool) -> None:
        super().__init__()
        self.body = body
        self._shortcut, self._checkpointed = shortcut, checkpointed

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        if self._checkpointed:
            found = checkpoint(self.body, rows, use_reentrant=False)
        else:
            found = self.body(rows)
        return rows + found if self._shortcut else found


OPTIMIZERS: tuple[Callable[[list[nn.Parameter]], torch.optim.Optimizer], ...] = (
    lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, foreach=False),
    lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.9),
    lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3, momentum=0.5),
)


WAYS_TO_LEAVE = (
    *((True, False, False), (False, True, False), (True, True, False)),
    *((False, False, True), (False, True, True)),
)
"""Fewer batches, no update, one batch more."""


@dataclass(frozen=True)
class RandomStep:
    """A training, drawn from a seed.

    Attributes:
        leaves: Whether its last step but one takes another course than the others.
    """

    seed: int
    leaves: bool = False

    def make(self) -> Workload:
        """Builds it on the device."""
        return build_on(trial_device().device, self._build)

    def _build(self) -> Workload:
        dice = random.Random(self.seed)
        torch.manual_seed(self.seed)
        width, rows = dice.choice((16, 48, 64)), dice.choice((32, 96, 160))
        model = nn.Sequential(*(_block(dice, width) for _ in range(dice.randint(2, 4))))
        optimizer = dice.choice(OPTIMIZERS)(list(model.parameters()))
        batches = [torch.randn(rows, width) for _ in range(dice.choice((1, 1, 2)))]
        clears_first = dice.random() < 0.5
        fewer, skips, more = dice.choice(WAYS_TO_LEAVE)
        steps = itertools.count()

        def step() -> torch.Tensor:
            odd = self.leaves and next(steps) == STEPS - 2
            if clears_first:
                optimizer.zero_grad()
            total = torch.zeros((), device=trial_device().device)
            of_this_step = batches[:1] if odd and fewer else batches
            for batch in [*of_this_step, *batches[: odd and more]]:
                loss = (model(batch) - batch).square().mean()
                loss.backward()
                total += loss.detach()
            if not (odd and (skips or (fewer and len(batches) == 1))):
                optimizer.step()
            if not clears_first:
                optimizer.zero_grad()
            return total

        return Workload(model=model, optimizer=optimizer, step=step)


def _block(dice: random.Random, width: int) -> Block:
    names = ["linear"]
    for name in dice.choices(list(LAYERS), k=dice.randint(1, 3)):
        # In place only of what nothing saves.
        saved = name == "relu in place" and names[-1] in ("gelu", "relu in place", "dropout")
        names.append("norm" if saved else name)
    body = nn.Sequential(*(LAYERS[name](width) for name in names))
    is_checkpointed = dice.random() < 0.2
    return Block(body, shortcut=dice.random() < 0.5, checkpointed=is_checkpointed)


@dataclass(frozen=True)
class Outcome:
    """What came of one random training under a random plan.

    Attributes:
        faults: What was wrong; nothing if all was right.
        left_plan: How many steps left it.
        shortcuts: How many skipped an update.
    """

    seed: int
    plan: str
    link: str
    swaps: int
    rebuilds: int
    faults: tuple[str, ...]
    left_plan: int
    shortcuts: int


def try_random_step(seed: int, *, in_pages: bool = False) -> Outcome:
    """Trains a random step without a plan and under a random one.

    With odd seeds one of the steps skips its update, or leaves the plan and is swapped on line from
    there. On a device that counts pages others may, too.
    """
    dice = random.Random(-1 - seed)
    step, leaves = RandomStep(seed), RandomStep(seed, leaves=seed % 2 == 1)
    link = nominal_link("random", dice.uniform(20, 4000), dice.uniform(20, 4000), latency_us=20.0)
    name = dice.choice(("solved", *PLANS))
    profile = recorded(step.make, link)
    if name == "solved":
        plan = plan_within(profile, dice.uniform(0.0, 0.9), SOLVE_SECONDS)
    else:
        plan = PLANS[name](profile)
    expected = resident(leaves.make, STEPS)
    delay_us = dice.choice((0.0, 100.0, 1000.0))
    with warnings.catch_warnings(), trial_device().disturbed(seed, link, delay_us) as log:
        warnings.simplefilter("ignore", FallbackWarning)
        try:
            found = replayed(plan, leaves.make, STEPS, off_plan=OffPlan.ON_LINE, in_pages=in_pages)
        except torch.OutOfMemoryError as error:
            found = Numbers(peaks_bytes=[0], fallbacks=[str(error)])
    faults = found.faults(expected, plan.budget_bytes)
    if found.left_plan + found.shortcuts != leaves.leaves and not in_pages:
        faults.append(f"{found.left_plan} steps left the plan, {found.shortcuts} skipped an update")
    faults += [f"race: {race}" for race in races(log)]
    rates = f"{link.d2h_bytes_per_us:.0f} / {link.h2d_bytes_per_us:.0f} MB/s"
    return Outcome(
        seed=seed,
        plan=name,
        link=rates,
        swaps=len(plan.swaps),
        rebuilds=len(plan.rebuilds),
        faults=tuple(faults),
        left_plan=found.left_plan,
        shortcuts=found.shortcuts,
    )
