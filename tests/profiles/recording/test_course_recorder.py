"""A training of several courses, each recorded for itself while it goes on."""

from collections.abc import Sequence
from contextlib import suppress

import pytest
import torch
from torch import nn

from profiles.hooks.workload import Workload
from profiles.recording.course_recorder import MOST_STEPS_EACH, CourseRecorder
from profiles.recording.record import record
from profiles.schema.errors import WorkloadError
from profiles.schema.profile_set import ProfileSet
from tests.support.training.fake_time import counting_tools
from tests.support.training.fixed_times import FAST_LINK, UNNAMED
from tests.support.training.recorded import assert_same, snapshot

WIDTH = 16


class Training:
    """A training whose batches have so many rows in turn; fewer than none skip the update."""

    def __init__(self, rows: Sequence[int]) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        self.rows, self.steps = rows, 0

    def step(self) -> torch.Tensor:
        rows = self.rows[self.steps % len(self.rows)]
        self.steps += 1
        loss: torch.Tensor = self.model(torch.ones(abs(rows), WIDTH)).square().mean()
        loss.backward()
        if rows > 0:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def workload(self) -> Workload:
        return Workload(model=self.model, optimizer=self.optimizer, step=self.step)


def recorded(training: Training, most_courses: int) -> tuple[ProfileSet, tuple[str, ...]]:
    recorder = CourseRecorder(
        training.model,
        training.optimizer,
        most_courses=most_courses,
        instruments=counting_tools(),
    )
    try:
        while not recorder.is_done:
            with recorder.step():
                training.step()
        return recorder.profiles(link=FAST_LINK, source=UNNAMED), recorder.left_out()
    finally:
        recorder.close()


def text_of(rows: int) -> str:
    return f"model(float32[{rows}x{WIDTH}])"


@pytest.mark.parametrize("rows", [(8, 6, 4), (8, 8, 6, 4, 4)], ids=str)
def test_each_course_is_recorded_as_if_it_were_alone(rows: tuple[int, ...]) -> None:
    found, left_out = recorded(Training(rows), 3)
    assert [entry.course for entry in found.courses] == [text_of(n) for n in (8, 6, 4)]
    assert left_out == ()
    for entry, count in zip(found.courses, (8, 6, 4), strict=True):
        alone = record(
            Training([count]).workload(),
            source=UNNAMED,
            link=FAST_LINK,
            instruments=counting_tools(),
        )
        assert [slot.anchor for slot in entry.profile.slots] == [s.anchor for s in alone.slots]
        # A course is known, and its recording begins, when the batch is there.
        batch, *others = (op.name for op in alone.ops)
        assert [op.name for op in entry.profile.ops] == others
        assert batch == "aten.ones.default"
        assert entry.profile.model_fingerprint == alone.model_fingerprint


def test_recording_changes_no_number_and_leaves_nothing_behind() -> None:
    training, plain = Training((8, 6)), Training((8, 6))
    recorded(training, 2)
    for _ in range(training.steps):
        plain.step()
    assert_same(snapshot(training.workload()), snapshot(plain.workload()))
    assert not any(module._forward_pre_hooks for module in training.model.modules())


def test_no_more_courses_are_recorded_than_wanted() -> None:
    found, left_out = recorded(Training((8, 6, 4)), 2)
    assert [entry.course for entry in found.courses] == [text_of(8), text_of(6)]
    assert left_out == ()


def test_it_does_not_wait_for_courses_that_do_not_come() -> None:
    training = Training((8, 6))
    found, (line,) = recorded(training, 5)
    assert len(found.courses) == 2
    assert line == f"of 5 courses that were asked for {training.steps} steps took 2"
    assert training.steps < 2 * MOST_STEPS_EACH


def test_a_course_that_comes_too_seldom_is_left_out_with_a_word() -> None:
    found, (line,) = recorded(Training((*(8,) * 19, 6)), 2)
    assert [entry.course for entry in found.courses] == [text_of(8)]
    assert line == f"{text_of(6)} is left out: too few of the steps took this course"


def test_steps_that_begin_alike_and_go_on_otherwise_are_passed_over() -> None:
    found, left_out = recorded(Training((8, 8, -8, 6)), 2)
    assert len(found.courses) == 2
    assert left_out == ()


def test_a_course_that_never_updates_is_left_out() -> None:
    found, (line,) = recorded(Training((8, -6)), 2)
    assert [entry.course for entry in found.courses] == [text_of(8)]
    assert line.startswith(f"{text_of(6)} is left out: ")
    assert "optimizer" in line


def test_without_any_course_it_says_why() -> None:
    with pytest.raises(WorkloadError, match=r"No course was recorded: .* optimizer"):
        recorded(Training((-8,)), 1)


def test_steps_that_call_no_module_have_no_course() -> None:
    training = Training((8,))
    recorder = CourseRecorder(training.model, training.optimizer, most_courses=1)
    while not recorder.is_done:
        with recorder.step():
            pass
    recorder.close()
    with pytest.raises(WorkloadError, match="call no module of the model"):
        recorder.profiles(link=FAST_LINK, source=UNNAMED)


def test_an_exception_in_a_step_is_the_users_and_recording_goes_on() -> None:
    training = Training((8, 6))
    recorder = CourseRecorder(
        training.model, training.optimizer, most_courses=2, instruments=counting_tools()
    )
    steps = 0
    while not recorder.is_done:
        steps += 1
        with suppress(ZeroDivisionError), recorder.step():
            training.step()
            if steps % 7 == 0:
                raise ZeroDivisionError
    recorder.close()
    assert len(recorder.profiles(link=FAST_LINK, source=UNNAMED).courses) == 2
