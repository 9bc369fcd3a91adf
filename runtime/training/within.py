"""Keeps a training loop within a budget of device memory, from its first step on.

[Note: when a step begins] Which course a step takes is known when its first module is called, by
what that is handed. So nothing begins at the `with` statement: until the first call the code runs
between two steps, where whatever it touches is brought back first. Recording and replay both begin
at that call, and so see the same step.

[Note: who has what is away] Between two steps, one of the replays or what swaps on line may have
storages away. Before another one begins, it hands them over, one by one and within the budget.
"""

import logging
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch

from planner.plan.plan import Plan
from profiles.hardware.links import EMULATED, link_named
from profiles.hooks.anchors import AnchorHooks, OwnHook
from profiles.hooks.named_storages import describe_model
from profiles.hooks.workload import Training, variables_of
from profiles.recording.device import describe_device, device_of, instruments_for
from profiles.recording.passes import Held
from profiles.recording.recorder import Recorder
from profiles.schema.errors import SwapplanError
from profiles.schema.files import VERSION
from profiles.schema.memory import slot_memory
from profiles.schema.profile import CPU, Link, Profile
from profiles.schema.units import size_text
from runtime.beyond_capacity.record import LimitedRecorder
from runtime.host.host_pool import HostPool
from runtime.lanes.copy_device import copy_device
from runtime.lanes.measure import link_from, measure_link
from runtime.replay.load import LoadedPlan
from runtime.replay.replay import Replay
from runtime.replay.statistics import FallbackWarning
from runtime.training.budget import Budget
from runtime.training.course import course_of, key_of, shortened
from runtime.training.on_line import OnLine
from runtime.training.plan_folder import PlanFolder
from runtime.training.planning import Planning

LOG = logging.getLogger("swapplan")

MOST_RECORDINGS = 3
"""A course whose steps differ is recorded anew so many times before it is left without a plan."""


class Way(Enum):
    """How the steps of a course are run."""

    RECORDED = "recorded"
    PLANNED_FOR = "run while their plan is made"
    REPLAYED = "replayed"
    RESIDENT = "run resident: they fit"
    UNPLANNED = "run without a plan"


@dataclass(eq=False)
class Course:
    """A course of the loop.

    Attributes:
        key: Its name in the folder of plans.
        text: What its first module is handed.
        way: How its next step is run.
        why: Why it has no plan, if it is left without.
        steps: How many there were.
    """

    key: str
    text: str
    way: Way = Way.RECORDED
    why: str = ""
    steps: int = 0
    recordings: int = 0
    recorder: Recorder | LimitedRecorder | None = None
    planning: Planning | None = None
    replay: Replay | None = None


class PlannedTraining:
    """A training loop that is kept within a budget. Use it as a context manager, or call `close`.

    Attributes:
        courses: The courses met or planned so far, by key.
        tally: How many steps were run in each way.
    """

    def __init__(
        self,
        training: Training,
        budget: Budget,
        folder: PlanFolder,
        link: Link,
        *,
        time_limit_s: float,
        most_plans: int,
    ) -> None:
        """Attaches the plans that are there; see `within` for the rest."""
        self.courses: dict[str, Course] = {}
        self._training = training
        self._budget = budget
        self._folder = folder
        self._link = link
        self._time_limit_s, self._most_plans = time_limit_s, most_plans
        self._tools = instruments_for(device_of(training.model))
        self.tally: dict[Way, int] = dict.fromkeys(Way, 0)
        self._step: _Step | None = None
        self._holder: Replay | None = None
        self._pool = HostPool(0)
        self._is_closed = False
        self._handles: list[Any] = []
        for name, module in training.model.named_modules():
            hook = OwnHook(partial(self._on_forward, name))
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        self._hooks = AnchorHooks(training.model, training.optimizer)
        self._on_line = OnLine(training, budget.limit_bytes, self._tools, self._hooks)
        for key in folder.planned()[:most_plans]:
            course = self.courses[key] = Course(key, "")
            self._attach(course)

    def step(self) -> AbstractContextManager[None]:
        """Runs one training step inside: recorded, replayed, or kept within the budget otherwise.

        Raises:
            RuntimeError: It is closed, or another step is running.
        """
        frame = sys._getframe(1)
        return _Step(self._arm, self._leave, lambda: variables_of(frame))

    def begin(self) -> None:
        """Begins a step where there is no `with` statement: in frameworks that call back.

        One that an exception has kept from being ended is ended first.
        """
        if self._step is not None:
            self._leave(self._step, _Unfinished())
        _Step(self._arm, self._leave, tuple).__enter__()

    def end(self) -> None:
        """Ends the step that has begun, if one has."""
        if self._step is not None:
            self._leave(self._step, None)

    def wait_for_plans(self) -> None:
        """Blocks until every plan that is being made is there."""
        while self._under_way():
            for course in self._under_way():
                if course.planning is not None:
                    course.planning.wait()
            self._look_for_plans()

    def summary(self) -> str:
        """Says what happened so far: a line in all, and one for each course."""
        replays = [c.replay for c in self.courses.values() if c.replay is not None]
        fallbacks = sum(replay.fallbacks for replay in replays)
        counts = ", ".join(f"{n} {way.value}" for way, n in self.tally.items() if n)
        lines = [
            f"swapplan: {sum(self.tally.values())} steps within {self._budget.text}: "
            f"{counts or 'none yet'}; {fallbacks} fell back to resident."
        ]
        met = [course for course in self.courses.values() if course.steps]
        for course in met:
            why = f" ({course.why})" if course.why else ""
            lines.append(
                f"  {shortened(course.text)}: {course.steps} steps, now {course.way.value}{why}"
            )
        return "\n".join(lines)

    def close(self) -> None:
        """Brings everything back, removes all hooks and ends what plans; it may be called again."""
        if self._is_closed:
            return
        self._step = None
        for course in self.courses.values():
            if course.replay is not None:
                course.replay.close()
            if course.planning is not None:
                course.planning.close()
        self._on_line.close()
        self._hooks.close()
        for handle in self._handles:
            handle.remove()
        self._is_closed = True
        LOG.info("%s", self.summary())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _arm(self, step: "_Step") -> None:
        if self._is_closed:
            raise RuntimeError("This training is closed, so it has no more steps.")
        if self._step is not None:
            raise RuntimeError("A step is already running; steps cannot be nested.")
        self._look_for_plans()
        self._step = step

    def _on_forward(self, name: str, _: object, args: Any, kwargs: Any) -> None:
        """See [Note: when a step begins]."""
        step = self._step
        if step is None or step.course is not None or step.thread != threading.get_ident():
            return
        text = course_of(name, self._training.model.training, args, kwargs)
        key = key_of(text)
        course = self.courses.get(key)
        if course is None:
            course = self.courses[key] = Course(key, text)
            profile = self._folder.profile(key)
            if profile is not None:
                self._decide(course, profile)
        course.text = text
        step.course, step.way = course, course.way
        step.running = self._running(course, step.held)
        step.running.__enter__()

    def _running(self, course: Course, held: Held) -> AbstractContextManager[object]:
        """Returns what runs a step of a course, with everything where that wants it."""
        if course.replay is not None:
            self._hand_to(course.replay)
            return course.replay.step()
        self._hand_to(None)
        limited = self._on_line.limited
        if course.way is Way.RECORDED:
            recorder = course.recorder = course.recorder or self._new_recorder()
            recording = recorder.step_of(held)
            is_limited = isinstance(recorder, LimitedRecorder)
            return self._on_line.around(recording) if is_limited else recording
        if course.way is Way.RESIDENT or self._budget.limit_bytes is None:
            self._on_line.bring_back()
            return nullcontext()
        return self._on_line.around(limited.step())

    def _new_recorder(self) -> Recorder | LimitedRecorder:
        training = self._training
        if self._budget.limit_bytes is None:
            return Recorder(
                training.model, training.optimizer, instruments=self._tools, hooks=self._hooks
            )
        return LimitedRecorder(training, self._on_line.limited, self._tools)

    def _hand_to(self, replay: Replay | None) -> None:
        """See [Note: who has what is away]."""
        holder, self._holder = self._holder, replay
        if holder is replay:
            return
        self._on_line.release()
        swap = self._on_line.limited.swap
        if holder is not None:
            holder.hand_over(swap)
        if replay is not None and swap.moving():
            replay.take_over(swap)
        elif replay is None:
            self._on_line.guard()

    def _leave(self, step: "_Step", error: BaseException | None) -> None:
        self._step = None
        course, running = step.course, step.running
        if course is None or running is None:
            # No module was called.
            return
        kind = None if error is None else type(error)
        trace = None if error is None else error.__traceback__
        course.steps += 1
        self.tally[step.way] += 1
        try:
            running.__exit__(kind, error, trace)
        except SwapplanError as fault:
            if error is not None or step.way is not Way.RECORDED:
                raise
            self._record_again(course, fault)
            return
        if course.way is Way.RECORDED and course.recorder is not None and course.recorder.is_done:
            profile = course.recorder.profile(link=self._link)
            course.recorder = None
            self._folder.keep_profile(course.key, profile)
            self._decide(course, profile)
        elif step.way in (Way.UNPLANNED, Way.PLANNED_FOR):
            self._warn_if_over(course)

    def _record_again(self, course: Course, fault: SwapplanError) -> None:
        course.recorder = None
        course.recordings += 1
        if course.recordings == MOST_RECORDINGS:
            self._leave_unplanned(course, str(fault))

    def _decide(self, course: Course, profile: Profile) -> None:
        """Has a recorded course planned, unless it fits."""
        peak_bytes = max(slot.resident_bytes for slot in slot_memory(profile))
        if peak_bytes <= self._budget.bytes_of(peak_bytes):
            course.way = Way.RESIDENT
            return
        planned = sum(c.way in (Way.REPLAYED, Way.PLANNED_FOR) for c in self.courses.values())
        if planned >= self._most_plans:
            self._leave_unplanned(course, f"{self._most_plans} courses have plans already")
            return
        course.way = Way.PLANNED_FOR
        self._plan_next()

    def _plan_next(self) -> None:
        """Starts a process for the first course that waits for one, if none runs."""
        waiting = self._under_way()
        if not waiting or any(course.planning is not None for course in waiting):
            return
        key = waiting[0].key
        waiting[0].planning = Planning(
            self._folder.profile_path(key),
            self._budget.to_plan,
            self._folder.plan_path(key),
            self._time_limit_s,
        )

    def _under_way(self) -> list[Course]:
        return [c for c in self.courses.values() if c.way is Way.PLANNED_FOR]

    def _look_for_plans(self) -> None:
        for course in self._under_way():
            planning = course.planning
            if planning is None or not planning.is_over:
                continue
            fault = planning.fault()
            planning.close()
            course.planning = None
            if fault is None:
                self._attach(course)
            else:
                self._leave_unplanned(course, fault)
        self._plan_next()

    def _attach(self, course: Course) -> None:
        """Attaches a course's plan; without one that is for this training it is recorded."""
        course.way = Way.RECORDED
        plan = self._folder.plan(course.key)
        limit_bytes = self._budget.limit_bytes
        if plan is None or (limit_bytes is not None and plan.budget_bytes > limit_bytes):
            return
        try:
            self._grow_pool(plan)
            course.replay = LoadedPlan(plan).attach(
                self._training.model, self._training.optimizer, pool=self._pool
            )
        except SwapplanError as error:
            LOG.warning("A plan is passed over and made again: %s", error)
            return
        course.way = Way.REPLAYED

    def _grow_pool(self, plan: Plan) -> None:
        """Makes the host pool that all replays share large enough; only one uses it at a time."""
        if plan.host_pool_bytes <= self._pool.size_bytes:
            return
        self._hand_to(None)
        device = device_of(self._training.model)
        self._pool = copy_device(device).host_pool(plan.host_pool_bytes)
        for course in self.courses.values():
            if course.replay is not None:
                course.replay.use_pool(self._pool)

    def _leave_unplanned(self, course: Course, why: str) -> None:
        course.way, course.why = Way.UNPLANNED, why
        how = "resident" if self._budget.limit_bytes is None else "swapped on line"
        LOG.warning("%s runs without a plan, %s: %s", shortened(course.text), how, why)

    def _warn_if_over(self, course: Course) -> None:
        swap = self._on_line.limited.swap
        if self._budget.limit_bytes is not None and swap.fell_short:
            need = swap.largest_need
            warnings.warn(
                f"A step of {shortened(course.text)} took more than {self._budget.text}: "
                f"{need.name} needs {size_text(need.size_bytes)} at once. Give it a larger budget, "
                "or a smaller batch.",
                FallbackWarning,
                stacklevel=2,
            )


class _Unfinished(Exception):
    """A step was left by an exception that only its framework has seen."""


class _Step(AbstractContextManager[None]):
    """One step of the loop; `running` is what it runs in, from its first module's call on."""

    def __init__(
        self,
        enter: Callable[["_Step"], None],
        leave: Callable[["_Step", BaseException | None], None],
        held: Held,
    ) -> None:
        self.held = held
        self.thread = threading.get_ident()
        self.course: Course | None = None
        self.way = Way.UNPLANNED
        self.running: AbstractContextManager[object] | None = None
        self._enter, self._leave = enter, leave

    def __enter__(self) -> None:
        self._enter(self)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._leave(self, error)


def within(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    budget: str | int,
    plans: Path | str,
    link: str | None = None,
    time_limit_s: float = 60.0,
    most_plans: int = 4,
) -> PlannedTraining:
    """Keeps a training loop within a budget of device memory, from its first step on.

        with runtime.within(model, optimizer, budget="14GiB", plans="plans") as memory:
            for batch in batches:
                with memory.step():
                    ...  # as before

    The first steps of each course of the loop are recorded, then another process plans it while
    training goes on, and from then on the plan is replayed. Until it is there, steps that do not
    fit are swapped on line, which is slow. What fits is left alone. No number changes.

    Args:
        model: The model, on its device.
        optimizer: Its optimizer; one that a library has wrapped is taken out of its wrapper.
        budget: Device bytes: a number, `"14GiB"`, `"fits"` for what the device has free, or a
            share of what a step needs without a plan, `"60%"`; until there is a plan for a share,
            steps run resident.
        plans: The folder to keep plans in: the next run begins with them.
        link: The link to the host, by its name in `plan links`; if None, it is measured, and on the
            emulated device it is the emulated one.
        time_limit_s: How long the planner may look for a better plan.
        most_plans: Courses that may have a plan; others are swapped on line.

    Raises:
        SwapplanError: The model, the optimizer, the budget, the link or the folder is not as said.
    """
    training = Training(model=model, optimizer=optimizer)
    device = device_of(model)
    asked = Budget.of(budget, training)
    facts = (
        describe_model(training.model, training.optimizer).fingerprint(),
        describe_device(device).name,
        *(VERSION, torch.__version__, asked.text, link or ""),
    )
    return PlannedTraining(
        training,
        asked,
        PlanFolder(Path(plans), key_of(*facts)),
        link_for(device, link),
        time_limit_s=time_limit_s,
        most_plans=most_plans,
    )


def link_for(device: torch.device, name: str | None) -> Link:
    """Returns a link of the table, or the device's own: measured, unless it is emulated.

    Raises:
        QuantityError: There is no link of that name.
    """
    if name is not None:
        return link_named(name)
    if device.type == CPU:
        return EMULATED
    return link_from(measure_link(device))
