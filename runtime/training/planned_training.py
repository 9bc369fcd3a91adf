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
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Self

from planner.plan.plan import Plan
from profiles.hooks.anchors import AnchorHooks, OwnHook
from profiles.hooks.workload import Training, variables_of
from profiles.recording.device import device_of, instruments_for
from profiles.recording.passes import Held
from profiles.recording.recorder import Recorder
from profiles.schema.errors import SwapplanError
from profiles.schema.memory import slot_memory
from profiles.schema.profile import Link, Profile
from profiles.schema.units import size_text
from runtime.beyond_capacity.record import LimitedRecorder
from runtime.host.host_pool import HostPool
from runtime.lanes.copy_device import copy_device
from runtime.replay.load import LoadedPlan
from runtime.replay.replay import Replay
from runtime.replay.statistics import FallbackWarning
from runtime.training.agreement import Agreement, Word, agreement_of
from runtime.training.budget import Budget
from runtime.training.course import Course, Way
from runtime.training.course_key import course_of, key_of, shortened
from runtime.training.on_line import OnLine
from runtime.training.plan_folder import PlanFolder
from runtime.training.planning import Planning
from runtime.training.step import LoopStep, UnfinishedStep

LOG = logging.getLogger("swapplan")

OF_WORKERS = "the step of all workers"
"""The course of a loop that data-parallel workers run; see `runtime.training.agreement`."""
MOST_RECORDINGS = 3
"""A course whose steps differ is recorded anew so many times before it is left without a plan."""


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
        self._step: LoopStep | None = None
        self._holder: Replay | None = None
        self._pool = HostPool(0)
        self._is_closed = self._have_agreed = False
        self._handles: list[Any] = []
        for name, module in training.model.named_modules():
            hook = OwnHook(partial(self._on_forward, name))
            self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        self._hooks = AnchorHooks(training.model, training.optimizer)
        self._on_line = OnLine(training, budget.limit_bytes, self._tools, self._hooks)
        self._workers = agreement_of(training)
        if self._workers is None:
            for key in folder.planned()[:most_plans]:
                self._attach(self._new_course(key, ""), folder.plan(key))
        else:
            course = self._new_course(key_of(OF_WORKERS), OF_WORKERS)
            if self._workers.is_first and folder.plan(course.key) is not None:
                course.way = Way.REPLAYED

    def step(self) -> AbstractContextManager[None]:
        """Runs one training step inside: recorded, replayed, or kept within the budget otherwise.

        Raises:
            RuntimeError: It is closed, or another step is running.
        """
        frame = sys._getframe(1)
        return LoopStep(self._arm, self._leave, lambda: variables_of(frame))

    def begin(self) -> None:
        """Begins a step where there is no `with` statement: in frameworks that call back.

        One that an exception has kept from being ended is ended first.
        """
        if self._step is not None:
            self._leave(self._step, UnfinishedStep())
        LoopStep(self._arm, self._leave, tuple).__enter__()

    def end(self) -> None:
        """Ends the step that has begun, if one has."""
        if self._step is not None:
            self._leave(self._step, None)

    def wait_for_plans(self) -> None:
        """Blocks until every plan that this process has made is there."""
        while planned := [c.planning for c in self._under_way() if c.planning is not None]:
            planned[0].wait()
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

    def _arm(self, step: "LoopStep") -> None:
        if self._is_closed:
            raise RuntimeError("This training is closed, so it has no more steps.")
        if self._step is not None:
            raise RuntimeError("A step is already running; steps cannot be nested.")
        self._look_for_plans()
        if self._workers is not None:
            self._agree(self._workers)
        self._step = step

    def _on_forward(self, name: str, _: object, args: Any, kwargs: Any) -> None:
        """See [Note: when a step begins]."""
        step = self._step
        if step is None or step.course is not None or step.thread != threading.get_ident():
            return
        text = course_of(name, self._training.model.training, args, kwargs)
        if self._workers is not None:
            text = OF_WORKERS
        course = self.courses.get(key_of(text)) or self._met(text)
        course.text = text
        step.course, step.way = course, course.way
        step.running = self._running(course, step.held)
        step.running.__enter__()

    def _met(self, text: str) -> Course:
        course = self._new_course(key_of(text), text)
        profile = self._folder.profile(course.key)
        if profile is not None:
            self._decide(course, profile)
        return course

    def _new_course(self, key: str, text: str) -> Course:
        course = self.courses[key] = Course(key, text)
        return course

    def _agree(self, workers: Agreement) -> None:
        """See [Note: one course for all] in `runtime.training.agreement`."""
        (course,) = self.courses.values()
        if self._have_agreed:
            return
        said = None
        if workers.is_first and course.way not in (Way.RECORDED, Way.PLANNED_FOR):
            plan = self._folder.plan(course.key) if course.way is Way.REPLAYED else None
            said = Word(course.way, course.why if plan is None else plan.model_dump_json())
        heard = workers.hear(said)
        if heard is None:
            return
        self._have_agreed = True
        course.recorder = None
        if heard.way is Way.REPLAYED:
            self._attach(course, Plan.model_validate_json(heard.text))
        else:
            course.way, course.why = heard

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

    def _leave(self, step: "LoopStep", error: BaseException | None) -> None:
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
        if self._workers is None or self._workers.is_first:
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
            if fault is not None:
                self._leave_unplanned(course, fault)
            elif self._workers is None:
                self._attach(course, self._folder.plan(course.key))
            else:
                # Together with the others, in the word that follows.
                course.way = Way.REPLAYED
        if self._workers is None or self._workers.is_first:
            self._plan_next()

    def _attach(self, course: Course, plan: Plan | None) -> None:
        """Attaches a course's plan; without one that is for this training it is recorded."""
        course.way = Way.RECORDED
        limit_bytes = self._budget.limit_bytes
        if plan is None or (limit_bytes is not None and plan.budget_bytes > limit_bytes):
            return
        try:
            self._grow_pool(plan)
            course.replay = LoadedPlan(plan).attach(
                self._training.model, self._training.optimizer, pool=self._pool
            )
        except SwapplanError as error:
            if self._workers is not None:
                self._leave_unplanned(course, str(error))
                return
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
