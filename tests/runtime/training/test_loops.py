"""Loops of real packages within a budget: bit-equal, planned, a second run from its first step."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from runtime.training.course import Way
from runtime.training.planned_training import PlannedTraining
from tests.support.loops import frameworks, plain
from tests.support.loops.loop import Loop, Settings, Trained
from tests.support.loops.table import LOOP
from tests.support.training.recorded import assert_same

RECORDED_STEPS = (7, 8)
"""Two to warm up, two or three that are traced, three that are timed; times settle at once here."""


NEEDS = {"peft, 8 bits": "bitsandbytes", "peft, 4 bits": "bitsandbytes", "sft trainer": "trl"}
"""Packages of the extra `frameworks` that are large: not everybody who tests has them."""


def loops(folder: Path) -> dict[str, tuple[Loop, str, int]]:
    """The loops, the budget of each, and how many lines a user adds to it."""
    trainer = partial(frameworks.transformers_trainer, folder=folder)
    integers = partial(frameworks.lora_on_integers, folder=folder)
    return {
        "plain": (plain.with_all_the_trimmings, "80%", 2),
        "scaler": (plain.scaled, "90%", 2),
        "recipe": (plain.recipe, "80%", 3),
        "adversarial": (plain.adversarial, "80%", 2),
        "updated in backward": (plain.updated_in_backward, "85%", 2),
        "accelerate": (frameworks.accelerate, "80%", 3),
        "peft": (frameworks.lora, "80%", 2),
        "peft, 8 bits": (partial(integers, bits=8), "80%", 2),
        "peft, 4 bits": (partial(integers, bits=4), "80%", 2),
        "trainer": (trainer, "80%", 1),
        "trainer, accumulation": (partial(trainer, accumulation=2), "80%", 1),
        "trainer, evaluation": (partial(trainer, evaluates=True), "80%", 1),
        "sft trainer": (partial(frameworks.supervised_finetuning, folder=folder), "95%", 1),
        "lightning": (frameworks.lightning, "80%", 1),
        "lightning, clipping": (partial(frameworks.lightning, clips=True), "80%", 1),
        "lightning, accumulation": (partial(frameworks.lightning, accumulation=2), "80%", 1),
        "lightning, bfloat16": (partial(frameworks.lightning, precision="bf16-mixed"), "80%", 1),
        "lightning by hand": (frameworks.lightning_by_hand, "80%", 1),
    }


def marks_of(name: str) -> tuple[pytest.MarkDecorator, ...]:
    """`accelerate` is told to stay on the CPU."""
    return (pytest.mark.cpu_only,) if name == "accelerate" else ()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=marks_of(name)) for name in loops(Path())]
)
def test_a_loop_within_a_budget_trains_the_same(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], exc_type=ImportError)
    loop, budget, lines = loops(tmp_path / "out")[name]
    expected = numbers(loop(None))
    settings = Settings(budget=budget, plans=tmp_path / "plans")
    tallies, fallbacks = [], 0
    for _ in range(2):
        trained = loop(settings)
        losses, tensors = numbers(trained)
        assert losses == expected[0]
        assert_same(tensors, expected[1])
        assert trained.memory is not None
        tallies.append(tally(trained.memory))
        fallbacks += fallbacks_of(trained.memory)
        # What it holds would count in the next one's budget.
        del trained, tensors
    first, second = tallies
    recorded = first[Way.RECORDED]
    assert recorded in RECORDED_STEPS
    assert first == {Way.RECORDED: recorded, Way.REPLAYED: plain.STEPS - recorded}
    assert second == {Way.REPLAYED: plain.STEPS}
    assert fallbacks == 0
    replayed = f"{first[Way.REPLAYED]} + {second[Way.REPLAYED]}"
    row = (name, recorded, replayed, "yes", fallbacks, lines)
    record_property(LOOP, tuple(map(str, row)))


def numbers(trained: Trained) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Its losses, and all that it has changed, in host memory."""
    return trained.losses, {name: value.cpu() for name, value in trained.tensors().items()}


def tally(memory: PlannedTraining) -> dict[Way, int]:
    return {way: count for way, count in memory.tally.items() if count}


def fallbacks_of(memory: PlannedTraining) -> int:
    replays = [course.replay for course in memory.courses.values()]
    return sum(replay.fallbacks for replay in replays if replay is not None)
