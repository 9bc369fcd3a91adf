"""How the course of a step is found: by its beginning, and by the rhythm of those alike."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from profiles.hooks.course_finder import CourseFinder

Step = Callable[[nn.Module, torch.optim.Optimizer], None]


class Finding:
    """A model whose steps' courses are found."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 4))
        self.optimizer = torch.optim.SGD(self.model.parameters())
        self.courses: list[str] = []
        self.finder = CourseFinder(self.model, self.optimizer, self.courses.append)

    def run(self, step: Step, *, confirms: bool = True) -> str:
        """Runs a step; returns its signature."""
        self.finder.begin()
        step(self.model, self.optimizer)
        self.finder.end(is_whole=True)
        if confirms:
            self.finder.confirm()
        return self.finder.signature


@pytest.fixture
def finding() -> Iterator[Finding]:
    found = Finding()
    yield found
    found.finder.close()


def once(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()


def twice(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    (model(torch.ones(2, 4)) + model(torch.ones(2, 4))).sum().backward()
    optimizer.step()


def without_update(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.ones(2, 4)).sum().backward()


def another_part(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    first, *_, last = model.children()
    last(first(torch.ones(2, 4))).sum().backward()
    optimizer.step()


def after_the_update(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    once(model, optimizer)
    model(torch.ones(2, 4))


STEPS: tuple[Step, ...] = (once, twice, without_update, another_part, after_the_update)


def test_steps_that_do_other_things_have_other_signatures(finding: Finding) -> None:
    signatures = [finding.run(step) for step in STEPS * 2]
    assert signatures[: len(STEPS)] == signatures[len(STEPS) :]
    assert len(set(signatures)) == len(STEPS)
    assert signatures[0].startswith("4 calls, 1 update [")


@pytest.mark.parametrize("reentrant", [True, False])
def test_what_checkpoints_call_again_does_not_count(finding: Finding, *, reentrant: bool) -> None:
    def checkpointed(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        batch = torch.ones(2, 4, requires_grad=True)
        checkpoint(model, batch, use_reentrant=reentrant).sum().backward()
        optimizer.step()

    assert finding.run(checkpointed) == finding.run(once)


def test_those_that_begin_alike_are_foreseen_in_their_rhythm(finding: Finding) -> None:
    signatures = [finding.run(step) for step in (once, twice) * 5]
    first, second = finding.courses[0], f"{finding.courses[0]} with {signatures[1]}"
    assert first == "model(float32[2x4])"
    assert finding.courses == [first] * 5 + [second, first, second, first, second]


def test_none_is_foreseen_before_it_is_known_whose_name_the_beginning_is(finding: Finding) -> None:
    for step in (once, twice) * 5:
        finding.run(step, confirms=False)
    assert len(set(finding.courses)) == 1


def test_a_surprise_is_possible_until_it_was_foreseen_several_times(finding: Finding) -> None:
    turns = (once, once, twice)
    a, _, b = (finding.run(step) for step in turns)
    beginning = finding.finder.beginning
    assert beginning is not None
    assert beginning.possible() == {a, b}
    for step in turns * 4:
        finding.run(step)
    # A step is running, of which it is known what it will do.
    finding.finder.begin()
    once(finding.model, finding.optimizer)
    assert beginning.possible() == {a}
    finding.finder.end(is_whole=False)
    assert finding.finder.signature == ""


def test_a_beginning_says_whether_there_are_gradients(finding: Finding) -> None:
    with torch.no_grad():
        finding.finder.begin()
        finding.model(torch.ones(2, 4))
    assert finding.courses == ["model(float32[2x4]) without gradients"]


def test_a_step_that_calls_no_module_has_no_course(finding: Finding) -> None:
    assert finding.run(lambda model, optimizer: None) == ""
    assert finding.courses == []


def test_nothing_stays_on_the_model() -> None:
    found = Finding()
    found.finder.close()
    found.finder.close()
    assert found.finder.is_closed
    assert not any(module._forward_pre_hooks for module in found.model.modules())
    assert not found.optimizer._optimizer_step_pre_hooks
    once(found.model, found.optimizer)
    assert found.courses == []
