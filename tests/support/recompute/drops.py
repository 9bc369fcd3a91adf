"""Steps with something to drop: what is offered, and random sets of it."""

import random
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from planner.plan.plan import Boundary
from planner.problem.gaps import Gap
from planner.problem.problem import Problem, problem_of
from planner.recompute.offers import offers_of
from planner.recompute.recipes import StepEffects
from planner.recompute.rewriting import Rebuilding, rebuildings
from profiles.library.index import profile_path
from profiles.schema.profile import Profile
from profiles.schema.profile_file import read_profile


def every_gap(profile: Profile, boundary: Boundary = Boundary.PERIODIC) -> Problem:
    """The problem with every gap of a step, whatever the budget."""
    return problem_of(
        profile,
        budget_bytes=0,
        link=profile.link,
        min_size_bytes=1,
        boundary=boundary,
        every_gap=True,
    )


def offered_gaps(effects: StepEffects, boundary: Boundary = Boundary.PERIODIC) -> list[Gap]:
    """Every gap of a step that a recipe can end."""
    problem = every_gap(effects.profile, boundary)
    return [problem.whole_gaps[i] for i in sorted(offers_of(effects, problem).gaps)]


def rebuilt(effects: StepEffects, gaps: Iterable[Gap]) -> tuple[Rebuilding, ...]:
    """The recipes of as many of some gaps as can be dropped together, from the last on."""
    dropped = list(gaps)
    while (found := rebuildings(effects, dropped)) is None:
        del dropped[0]
    return found


def random_drops(
    profile: Profile, rng: random.Random, boundary: Boundary = Boundary.PERIODIC
) -> tuple[StepEffects, tuple[Rebuilding, ...]]:
    """What a step does, and the recipes for a random set of what is offered."""
    effects = StepEffects(profile)
    share = rng.choice([0.3, 0.7, 1.0])
    offered = offered_gaps(effects, boundary)
    rng.shuffle(offered)
    return effects, rebuilt(effects, [gap for gap in offered if rng.random() < share])


@cache
def network_step() -> Profile:
    """A step of a ResNet."""
    return read_profile(profile_path(Path("library:resnet50-v100-16gb")))
