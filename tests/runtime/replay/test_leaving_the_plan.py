"""Steps that begin as planned and go on otherwise: swapped on line from there, or still planned."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from planner.plan.plan import Plan, Without
from planner.solving import solve
from profiles.hooks.workload import Workload
from profiles.schema.errors import BudgetError
from profiles.schema.profile import CPU, Profile
from runtime import FallbackWarning, LoadedPlan
from runtime.beyond_capacity.online_swap import OnlineSwap
from runtime.replay import stepper
from runtime.replay.backend import Backend, Watch, backend_for
from runtime.replay.first_step import OffPlan
from runtime.replay.replay import Replay
from runtime.replay.statistics import StepStatistics
from tests.support.planning.hardest_plans import everything_away, periodic
from tests.support.planning.recipes import with_rebuilds
from tests.support.training.beside import beside_another
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.models import seeded
from tests.support.training.recorded import assert_all_resident, assert_same, snapshot

WIDTH = 32
PLANNED = "as planned"


class Training:
    """A training whose steps take the course that they are told to."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(3)]
        self.model = nn.Sequential(*blocks, nn.Linear(WIDTH, WIDTH))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2, foreach=False)
        self.rows = torch.randn(48, WIDTH)
        self.course = PLANNED
        self.more_bytes = 0
        self.kept: list[torch.Tensor] = []
        self.generator = seeded(3)
        self.sums: list[float] = []

    def workload(self) -> Workload:
        return Workload(model=self.model, optimizer=self.optimizer, step=self.step)

    def step(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        counts = {"fewer batches": 1, "fewer, clipped": 1, "more batches": 3}
        for _ in range(counts.get(self.course, 2)):
            loss = self.loss()
            if self.course == "forward only":
                return loss.detach()
            loss.backward()
        if self.course == "fewer, clipped":
            nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
        if self.course == "skips one":
            self.model.get_submodule("1.0").weight.grad = None
        if self.course == "states cleared":
            self.optimizer.state.clear()
        if self.course == "read as an array":
            for parameter in self.model[:3].parameters():
                assert parameter.detach().cpu().numpy().any()
        if self.course == "no update, no gradients":
            self.optimizer.zero_grad()
        elif self.course != "no update":
            self.optimizer.step()
        if self.course == "keeps more":
            self.kept.append(torch.zeros(self.more_bytes, dtype=torch.uint8))
        return loss.detach()

    def loss(self) -> torch.Tensor:
        rows = self.rows[:31] if self.course == "fewer rows" else self.rows
        hidden = self.model[:2](rows)
        if self.course == "another layer":
            hidden = self.model[0](hidden)
        if self.course == "takes more":
            self._take_more()
        if self.course == "draws more":
            self._draw_more()
        if self.course == "takes more in backward":
            hidden.register_hook(lambda slope: self._take_more())
        if self.course == "in backward":
            hidden.register_hook(lambda slope: self.model[1](slope.detach()).detach() * 0.5)
        loss: torch.Tensor = (self.model[2:](hidden) - rows).square().mean()
        return loss

    def _take_more(self) -> None:
        # All memory is made by this one op, and gone after it.
        assert torch.zeros(self.more_bytes, dtype=torch.uint8).sum() == 0

    def _draw_more(self) -> None:
        drawn = torch.rand(self.more_bytes // 4, generator=self.generator)
        self.sums.append(float(drawn.sum()))
        # Without memory, and from no generator.
        torch.rand(self.more_bytes, device="meta")


COURSES = (
    *("fewer batches", "fewer, clipped", "more batches", "forward only"),
    *("fewer rows", "another layer", "in backward"),
)
SHORTCUTS = ("no update", "no update, no gradients")


@cache
def recorded() -> Profile:
    return record_at_fixed_times(Training().workload())


def within(share: float) -> Plan:
    """A plan for a share of the peak, or for the smallest budget."""
    budget = max(1, int(share * recorded().peak_bytes))
    try:
        return solve(recorded(), budget_bytes=budget, without=Without.RECOMPUTE, time_limit_s=0.5)
    except BudgetError as error:
        smallest = error.smallest_budget_bytes
        return solve(recorded(), budget_bytes=smallest, without=Without.RECOMPUTE, time_limit_s=0.5)


PLANS: dict[str, Callable[[], Plan]] = {
    "60%": lambda: within(0.6),
    "smallest": lambda: within(0.0),
    "everything away": lambda: everything_away(recorded()),
    "periodic": lambda: periodic(recorded()),
    "rebuilt": lambda: with_rebuilds(recorded()),
    "rebuilt and swapped": lambda: with_rebuilds(recorded(), swapping=True),
}


@cache
def plan_named(name: str) -> Plan:
    return beside_another(PLANS[name]())


def attached(plan: Plan, training: Training, off_plan: OffPlan = OffPlan.ON_LINE) -> Replay:
    return LoadedPlan(plan).attach(training.model, training.optimizer, off_plan=off_plan)


def trained_beside(
    plan: Plan, courses: tuple[str, ...], off_plan: OffPlan = OffPlan.ON_LINE
) -> Replay:
    """Trains with the plan and without in turns, bit-equal after each step."""
    plain, training = Training(), Training()
    with attached(plan, training, off_plan) as replay:
        for course in courses:
            plain.course = training.course = course
            expected = plain.step()
            with replay.step():
                loss = training.step()
            assert torch.equal(loss, expected)
    assert_same(snapshot(training.workload()), snapshot(plain.workload()))
    assert_all_resident(training.workload())
    return replay


def trained_within_budget(plan: Plan, course: str) -> Replay:
    """Trains beside plain steps, three times by another course; none falls back or exceeds."""
    replay = trained_beside(plan, (PLANNED, PLANNED, course, PLANNED, course, course, PLANNED))
    steps = list(replay.steps)
    assert [step.fallback for step in steps] == [None] * len(steps)
    if plan.device.kind == CPU:
        assert max(step.peak_bytes or 0 for step in steps) <= plan.budget_bytes
    return replay


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("course", COURSES)
@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_a_step_of_another_course_keeps_to_the_budget(course: str, name: str) -> None:
    plan = plan_named(name)
    replay = trained_within_budget(plan, course)
    steps = list(replay.steps)
    assert [step.left_plan is not None for step in steps] == [
        *(False, False, True, False, True, True, False)
    ]
    assert replay.left_plan == 3
    assert "3 left the plan and were swapped on line (last: step 5, " in replay.summary()
    if plan.device.kind == CPU:
        compared = [step.memory_difference for step in steps if step.compares_memory]
        # A step without backward leaves no gradients for the next one to find.
        assert compared == [None] * 3 or course == "forward only"


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("course", ["states cleared", "read as an array"])
@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_what_no_anchor_shows_ends_within_the_budget(course: str, name: str) -> None:
    """A copy on its way to what has been replaced is no lost write; arrays have gone in the end."""
    trained_within_budget(plan_named(name), course)


@pytest.mark.cpu_only
def test_a_step_says_so_that_leaves_more_alive_than_the_budget_has() -> None:
    """What it keeps fits with all else out of its way, not beside what the plan has there then."""
    plan = plan_named("60%")
    training = Training()
    training.more_bytes = int(0.6 * plan.budget_bytes)
    with attached(plan, training) as replay:
        for _ in range(2):
            with replay.step():
                training.step()
        training.course = "keeps more"
        with (
            pytest.warns(FallbackWarning, match="left the plan"),
            pytest.warns(FallbackWarning, match="step 2 took more than the budget: "),
            replay.step(),
        ):
            training.step()
    last = replay.steps[-1]
    assert last.fallback is None
    assert last.peak_bytes is not None
    assert last.peak_bytes > plan.budget_bytes


# Steps that skip an update


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("course", SHORTCUTS)
def test_a_step_that_skips_its_update_goes_on_behind_it(course: str, name: str) -> None:
    """Without a warning: it ends as any other, and the next one has nothing to send away."""
    plan = plan_named(name)
    replay = trained_within_budget(plan, course)
    steps = list(replay.steps)
    assert [step.shortcut is not None for step in steps] == [
        *(False, False, True, False, True, True, False)
    ]
    assert (replay.left_plan, replay.shortcuts) == (0, 3)
    assert [step.prologue_bytes for step in steps[2:]] == [0] * 5
    assert "3 skipped an update (last: step 5, anchor " in replay.summary()
    if plan.device.kind == CPU and course == "no update":
        # The other leaves no gradients for the next step to find.
        assert [step.memory_difference for step in steps if step.compares_memory] == [None] * 3


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("off_plan", OffPlan)
@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_step_that_is_not_watched_does_likewise(name: str, off_plan: OffPlan) -> None:
    plan = plan_named(name)
    replay = trained_beside(plan, (PLANNED, PLANNED, *SHORTCUTS, PLANNED), off_plan)
    assert (replay.fallbacks, replay.left_plan, replay.shortcuts) == (0, 0, len(SHORTCUTS))


# Steps that take more than they took when they were recorded


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("course", ["takes more", "takes more in backward", "draws more"])
@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_a_step_that_takes_more_keeps_to_the_budget(course: str, name: str) -> None:
    plan = plan_named(name)
    plain, training = Training(), Training()
    # What the plan leaves alone cannot make room either.
    plain.more_bytes = training.more_bytes = int(0.4 * plan.budget_bytes)
    with attached(plan, training) as replay:
        for now in (PLANNED, PLANNED, course, PLANNED, course):
            plain.course = training.course = now
            expected = plain.step()
            with replay.step() as statistics:
                loss = training.step()
            assert torch.equal(loss, expected)
            assert statistics.fallback is None
            if plan.device.kind == CPU:
                assert (statistics.peak_bytes or 0) <= plan.budget_bytes
                # Where a plan has room left it is followed.
                assert statistics.left_plan is None or now == course
    assert replay.left_plan == 2 or name != "60%" or plan.device.kind != CPU
    assert training.sums == plain.sums
    assert_same(snapshot(training.workload()), snapshot(plain.workload()))


@pytest.mark.cpu_only
def test_unless_it_is_wanted_a_step_that_takes_more_runs_out_of_memory() -> None:
    plan = plan_named("60%")
    training = Training()
    training.more_bytes = plan.budget_bytes
    with attached(plan, training, OffPlan.RESIDENT) as replay:
        with replay.step():
            training.step()
        training.course = "takes more"
        with pytest.raises(torch.OutOfMemoryError), replay.step():
            training.step()
    assert_all_resident(training.workload())


class Pieces(TorchDispatchMode):
    """A device whose free memory lies in pieces: ops of a kind are refused while much is taken."""

    def __init__(self, refused: OpOverload, times: int = 1) -> None:
        super().__init__()
        self._refused, self._times = refused, times

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is self._refused and self._times:
            self._times -= 1
            raise torch.OutOfMemoryError("no room in one piece")
        return func(*args, **kwargs or {})


def in_pieces(training: Training, replay: Replay, pieces: Pieces) -> StepStatistics:
    """Runs a step on such a device: the mode entered first is asked last."""
    with pieces, replay.step() as statistics:
        training.step()
    return statistics


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are not watched, and whose memory an allocator counts."""

    def uncounted(*what: Any) -> Backend:
        return replace(backend_for(*what), watch=Watch.UNTIL_REPLAYED, budget_bytes=None)

    monkeypatch.setattr(stepper, "backend_for", uncounted)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_a_step_that_is_not_watched_keeps_to_it_likewise(name: str) -> None:
    course = "another layer"
    replay = trained_beside(plan_named(name), (PLANNED, PLANNED, course, PLANNED, course))
    assert (replay.fallbacks, replay.left_plan) == (0, 2)


@pytest.mark.parametrize("watched", [True, False])
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_an_update_without_one_of_its_gradients_keeps_to_the_budget(
    name: str, *, watched: bool, request: pytest.FixtureRequest
) -> None:
    """It is found out inside `optimizer.step()`, where another mode looks at the ops."""
    if not watched:
        request.getfixturevalue("as_on_a_gpu")
    course, plan = "skips one", plan_named(name)
    replay = trained_beside(plan, (PLANNED, PLANNED, course, PLANNED, course, PLANNED))
    assert replay.fallbacks == 0
    if watched and plan.device.kind == CPU:
        assert max(step.peak_bytes or 0 for step in replay.steps) <= plan.budget_bytes


PURE_OPS = {
    "forward": torch.ops.aten.gelu.default,
    "backward": torch.ops.aten.gelu_backward.default,
    "update": torch.ops.aten.sqrt.default,
}


@pytest.mark.parametrize("where", PURE_OPS)
@pytest.mark.parametrize("name", ["60%", "everything away"])
@pytest.mark.parametrize(("step", "times"), [(0, 1), (1, 1), (1, 2), (4, 1), (4, 2)])
@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_an_op_without_room_in_one_piece_runs_again(
    step: int, times: int, name: str, where: str
) -> None:
    op = PURE_OPS[where]
    plain, training = Training(), Training()
    with attached(plan_named(name), training) as replay:
        for number in range(6):
            plain.step()
            refused = times if number == step else 0
            statistics = in_pieces(training, replay, Pieces(op, refused))
            assert statistics.fallback is None
            # The first step is swapped on line by itself if the plan moves what it makes.
            by_itself = statistics.on_line and statistics.left_plan is None
            assert number == 0 or not by_itself
            left = number == step and not by_itself
            assert (f"{op}: there was no room" in str(statistics.left_plan)) is left
    assert_same(snapshot(training.workload()), snapshot(plain.workload()))


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
@pytest.mark.parametrize("op", [torch.ops.aten.addcdiv_.default], ids=str)
def test_an_op_that_may_have_written_half_is_not_run_again(op: OpOverload) -> None:
    training = Training()
    with attached(plan_named("60%"), training) as replay:
        for _ in range(3):
            in_pieces(training, replay, Pieces(op, 0))
        with pytest.raises(torch.OutOfMemoryError, match="in one piece"):
            in_pieces(training, replay, Pieces(op))
        assert replay.left_plan == 0
    assert_all_resident(training.workload())


def test_it_is_said_once() -> None:
    with pytest.warns(FallbackWarning, match="left the plan and was swapped on line") as seen:
        trained_beside(plan_named("60%"), (PLANNED, PLANNED, "another layer", "more batches"))
    assert len([one for one in seen if one.category is FallbackWarning]) == 1


def test_unless_it_is_wanted_the_step_falls_back() -> None:
    with pytest.warns(FallbackWarning, match="fell back to resident"):
        replay = trained_beside(
            plan_named("60%"), (PLANNED, PLANNED, "another layer"), OffPlan.RESIDENT
        )
    assert (replay.fallbacks, replay.left_plan) == (1, 0)


@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_without_room_on_line_it_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    plain, training = Training(), Training()
    with attached(plan_named("60%"), training) as replay:
        for course in (PLANNED, PLANNED, "another layer", PLANNED):
            plain.course = training.course = course
            with monkeypatch.context() as patch:
                if course != PLANNED:
                    patch.setattr(OnlineSwap, "begin_step", no_room)
                plain.step()
                with replay.step() as statistics:
                    training.step()
            if course != PLANNED:
                assert "it could not be swapped on line (no room" in str(statistics.fallback)
    assert (replay.fallbacks, replay.left_plan) == (1, 0)
    assert_same(snapshot(training.workload()), snapshot(plain.workload()))


@pytest.mark.filterwarnings("ignore::runtime.FallbackWarning")
def test_an_exception_after_it_is_the_users_and_training_goes_on() -> None:
    plain, training = Training(), Training()
    with attached(plan_named("60%"), training) as replay:
        for _ in range(2):
            plain.step()
            with replay.step():
                training.step()
        training.course = plain.course = "another layer"
        plain.step()
        with pytest.raises(ValueError, match="mine"), replay.step():  # noqa: PT012
            training.step()
            raise ValueError("mine")
        assert "the step raised ValueError" in str(replay.steps[-1].fallback)
        assert_all_resident(training.workload())
        training.course = plain.course = PLANNED
        plain.step()
        with replay.step() as statistics:
            training.step()
        assert statistics.fallback is None
    assert_same(snapshot(training.workload()), snapshot(plain.workload()))


# Storages that are freed sooner

KEEPING_PLANS = {
    "everything away": everything_away,
    "periodic": periodic,
    "rebuilt": with_rebuilds,
    "rebuilt and swapped": lambda profile: with_rebuilds(profile, swapping=True),
}


class KeepingTraining:
    """A training of two batches a step, which may keep what the first one made until the end."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(3)]
        self.model = nn.Sequential(*blocks)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2, foreach=False)
        self.drops_early = False

    def workload(self) -> Workload:
        return Workload(model=self.model, optimizer=self.optimizer, step=self.step)

    def step(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        kept = []
        for _ in range(2):
            rows = torch.randn(48, WIDTH)
            hidden = self.model[:2](rows)
            loss = (self.model[2](hidden) - rows).square().mean()
            loss.backward()
            if not self.drops_early:
                kept += [rows, hidden.detach()]
            del rows, hidden
        self.optimizer.step()
        assert all(tensor.isfinite().all() for tensor in kept)
        return loss.detach()


@cache
def recorded_keeping() -> Profile:
    return record_at_fixed_times(KeepingTraining().workload())


@cache
def keeping_plan(name: str) -> Plan:
    return beside_another(KEEPING_PLANS[name](recorded_keeping()))


def step_of(training: KeepingTraining, number: int) -> torch.Tensor:
    torch.manual_seed(number)
    return training.step()


@pytest.mark.parametrize("name", KEEPING_PLANS)
@pytest.mark.filterwarnings("error::runtime.FallbackWarning")
def test_what_is_freed_early_stays_away_and_the_plan_goes_on(name: str) -> None:
    plain, training = KeepingTraining(), KeepingTraining()
    plan = keeping_plan(name)
    with LoadedPlan(plan).attach(training.model, training.optimizer) as replay:
        for number, drops_early in enumerate((False, False, True, False, True, True, False)):
            training.drops_early = drops_early
            with replay.step():
                loss = step_of(training, number)
            assert torch.equal(loss, step_of(plain, number))
    steps = list(replay.steps)
    assert [step.fallback or step.left_plan for step in steps] == [None] * len(steps)
    as_planned = [step.skipped_swaps == 0 for step in steps[1:]]
    assert as_planned == [True, name == "rebuilt", True, *[name == "rebuilt"] * 2, True]
    assert max(step.peak_bytes or 0 for step in steps) <= plan.budget_bytes
    assert_same(snapshot(training.workload()), snapshot(plain.workload()))
    assert_all_resident(training.workload())
