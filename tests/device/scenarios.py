"""Small trainings on the device under plans that move all they can, watched for races."""

import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import nn

from planner.plan.plan import Boundary, Plan
from profiles.hardware.links import nominal_link
from profiles.hooks.data_parallel import data_parallel, group_of_one
from profiles.hooks.workload import Training, Workload
from profiles.recording.device import build_on, instruments_for
from profiles.schema.profile import Profile
from runtime import LoadedPlan
from runtime.beyond_capacity.limited_steps import LimitedSteps
from runtime.replay.statistics import FallbackWarning
from tests.device.build import NAME
from tests.device.layers import ROWS, WIDTH, layers, plain
from tests.device.races import Entry, races
from tests.device.trainings import (
    Build,
    Numbers,
    begun,
    fallbacks_of,
    keep,
    recorded,
    replayed,
    resident,
)
from tests.device.trial_device import trial_device
from tests.support.planning.hardest_plans import (
    everything_away,
    leaving_at_boundary,
    overlapping,
    periodic,
    returning_at_boundary,
)
from tests.support.planning.recipes import with_rebuilds
from tests.support.training.plain_steps import skipping_updates

STEPS = 4
MOST_DELAY_US = 400.0
LINK = nominal_link("slow", 200.0, 200.0, latency_us=300.0)
"""So that copies are under way when something goes that they need."""
Train = Callable[..., Numbers]
WAITS_FOR_A_LANE = 3
"""When it is closed, and before and after a training, when all streams are waited for."""


def on_a_stream_of_its_own() -> Workload:
    """Made on the default stream, trained on another, as CUDA graphs and some trainers do."""
    workload = plain()
    own = torch.Stream(device=trial_device().device)

    def step() -> torch.Tensor:
        before = torch.accelerator.current_stream()
        own.wait_stream(before)
        with own:
            loss = workload.step()
        before.wait_stream(own)
        return loss

    return Workload(model=workload.model, optimizer=workload.optimizer, step=step)


def failing() -> Workload:
    """The third step ends in the middle of forward: activations die while they are copied."""
    workload = plain()
    steps = 0

    def step() -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps != STEPS - 1:
            return workload.step()
        last = list(workload.model.children())[-1]
        handle = last.register_forward_pre_hook(_fail)
        try:
            return workload.step()
        except EarlyEndError:
            return torch.zeros((), device=trial_device().device)
        finally:
            handle.remove()

    return Workload(model=workload.model, optimizer=workload.optimizer, step=step)


class EarlyEndError(Exception):
    """What ends a step early."""


def _fail(*_: object) -> None:
    raise EarlyEndError


def dropping() -> Workload:
    """The third step lets go of a branch while the other one runs: its activations die then."""
    torch.manual_seed(0)
    model = nn.ModuleList([layers(), layers()])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = torch.randn(ROWS, WIDTH)
    branches: list[torch.Tensor] = []
    steps = 0

    def let_go(*_: object) -> None:
        if steps == STEPS - 1:
            branches.clear()

    list(model[1].children())[3].register_forward_pre_hook(let_go)

    def step() -> torch.Tensor:
        nonlocal steps
        steps += 1
        optimizer.zero_grad()
        branches.append(model[0](rows))
        loss = (model[1](rows) - rows).square().mean()
        for branch in branches:
            loss = loss + branch.square().mean()
        branches.clear()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def scaled() -> Workload:
    torch.manual_seed(0)
    return skipping_updates(layers(), torch.randn(ROWS, WIDTH), trial_device().device.type, 50)


def scaled_for_a_while() -> Workload:
    workload = scaled()
    for _ in range(8):
        workload.step()
    return workload


def cast(dtype: torch.dtype, *, scaled: bool) -> Workload:
    """Under autocast, with a scaler or without."""
    torch.manual_seed(0)
    model = layers()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler(NAME, enabled=scaled)
    rows = torch.randn(ROWS, WIDTH)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(NAME, dtype=dtype):
            loss = (model(rows) - rows).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


@dataclass(frozen=True)
class Scenario:
    """A training and a plan for it."""

    build: Callable[[], Workload]
    plan: Callable[[Profile], Plan]
    record: Callable[[], Workload] | None = None
    """What is recorded, if it is not what is trained."""
    falls_back: bool = False
    train: Train = replayed
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """What its trainings run in."""

    def make(self) -> Workload:
        return build_on(trial_device().device, self.build)

    def profile(self) -> Profile:
        return recorded(lambda: build_on(trial_device().device, self.record or self.build), LINK)


def in_turns(plan: Plan, make: Build, steps: int, *, limited: bool) -> Numbers:
    """Every other step is swapped on line, as a loop's are that have no plan."""
    workload, found = begun(make), Numbers()
    belongs = Training(model=workload.model, optimizer=workload.optimizer)
    with (
        LimitedSteps(belongs, plan.budget_bytes, instruments_for(trial_device().device)) as online,
        LoadedPlan(plan).attach(workload.model, workload.optimizer) as replay,
    ):
        for number in range(steps):
            if number % 2 == 0:
                replay.take_over(online.swap)
            with replay.step() if number % 2 == 0 else online.step():
                found.losses.append(float(workload.step()))
            if number % 2 == 0:
                replay.hand_over(online.swap)
        found.fallbacks = fallbacks_of(replay)
    keep(workload, found)
    return found


def default_device() -> AbstractContextManager[object]:
    return trial_device().device


def _round_the_boundary(late: Callable[[Plan], Plan]) -> Callable[[Profile], Plan]:
    return lambda profile: late(everything_away(profile, boundary=Boundary.PERIODIC))


SCENARIOS = {
    "each step": Scenario(plain, everything_away),
    "round the boundary": Scenario(plain, periodic),
    "leaving at the boundary": Scenario(plain, _round_the_boundary(leaving_at_boundary)),
    "returning at the boundary": Scenario(plain, _round_the_boundary(returning_at_boundary)),
    "rebuilt": Scenario(plain, with_rebuilds),
    "rebuilt and swapped": Scenario(plain, lambda profile: with_rebuilds(profile, swapping=True)),
    "a stream of its own": Scenario(on_a_stream_of_its_own, periodic),
    "activations that die": Scenario(failing, everything_away, plain, falls_back=True),
    "activations that die, returning": Scenario(
        failing, _round_the_boundary(returning_at_boundary), plain, falls_back=True
    ),
    "overlapping": Scenario(plain, lambda profile: overlapping(everything_away(profile))),
    "a branch that dies": Scenario(
        dropping, lambda profile: overlapping(everything_away(profile)), falls_back=True
    ),
    "in turns with steps swapped on line": Scenario(
        plain, _round_the_boundary(returning_at_boundary), train=in_turns
    ),
    "updates that are skipped": Scenario(
        scaled, _round_the_boundary(returning_at_boundary), scaled_for_a_while
    ),
    "a default device": Scenario(plain, everything_away, around=default_device),
    "cast": Scenario(partial(cast, torch.bfloat16, scaled=False), periodic),
    "cast and rebuilt": Scenario(
        partial(cast, torch.bfloat16, scaled=False),
        lambda profile: with_rebuilds(profile, swapping=True),
    ),
    "cast and scaled": Scenario(partial(cast, torch.float16, scaled=True), periodic),
    "a worker": Scenario(
        lambda: data_parallel(plain()), periodic, around=partial(group_of_one, NAME)
    ),
}


@cache
def plan_of(name: str) -> Plan:
    return SCENARIOS[name].plan(SCENARIOS[name].profile())


@cache
def expected_of(name: str) -> Numbers:
    return resident(SCENARIOS[name].make, STEPS)


def faults(name: str, seed: int, *, limited: bool = True) -> list[str]:
    """Replays a scenario with random delays; returns what was wrong.

    Unless it is not `limited` the device has no more than the plan's budget.
    """
    scenario = SCENARIOS[name]
    with scenario.around():
        return _faults(name, scenario, seed, limited=limited and not scenario.falls_back)


def _faults(name: str, scenario: Scenario, seed: int, *, limited: bool) -> list[str]:
    plan, expected = plan_of(name), expected_of(name)
    with warnings.catch_warnings(), trial_device().disturbed(seed, LINK, MOST_DELAY_US) as log:
        warnings.simplefilter("error" if limited else "ignore", FallbackWarning)
        found = scenario.train(plan, scenario.make, STEPS, limited=limited)
    said = [] if found.same_as(expected) else ["the numbers are others"]
    if not scenario.falls_back:
        said += [f"it fell back: {why}" for why in found.fallbacks]
    if _waits_for_lanes(log) > WAITS_FOR_A_LANE:
        said.append("the host waits for copies")
    return said + [f"a race: {race}" for race in races(log)]


def _waits_for_lanes(log: list[Entry]) -> int:
    """How often the host waited for a stream that carries copies and nothing else."""
    lanes = {e.stream for e in log if e.name.startswith("copy to")}
    lanes -= {e.stream for e in log if e.name.startswith("aten::")}
    waits = Counter(e.stream for e in log if e.kind == "host waits for stream")
    return max((waits[lane] for lane in lanes), default=0)
