"""Models and optimizers as libraries hand them on, and the tensors that a step can reach."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from profiles.hooks.named_storages import describe_model, owned_storages
from profiles.hooks.workload import Workload, bare_optimizer, reached_tensors
from profiles.schema.errors import PlanMismatchError, WorkloadError
from runtime import LoadedPlan
from tests.support.planning.hardest_plans import everything_away
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.models import seeded
from tests.support.training.recorded import assert_same, snapshot

WIDTH = 16


class Accelerated(torch.optim.Optimizer):
    """Made as accelerate's `AcceleratedOptimizer` is: an Optimizer that never initialises one."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        self.scaler = None

    @property
    def state(self) -> Any:  # type: ignore[override]
        return self.optimizer.state

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none: bool | None = None) -> None:
        self.optimizer.zero_grad()

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


class Proxy:
    """Made as Lightning's `LightningOptimizer` is: no Optimizer, and asks the one inside."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def step(self, closure: Any = None) -> Any:
        return self._optimizer.step(closure)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)


class Sharpened(torch.optim.Optimizer):
    """Made as SAM is: an Optimizer of its own whose `step` nobody calls."""

    def __init__(self, base: torch.optim.Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base_optimizer = base
        self.param_groups = base.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.base_optimizer.step(closure)


class Scheduler:
    """Made as accelerate's `AcceleratedScheduler` is."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
        self.optimizers = [optimizer]

    def step(self) -> None:
        self.scheduler.step()

    def get_last_lr(self) -> list[float]:
        return [float(rate) for rate in self.scheduler.get_last_lr()]


class Several(torch.optim.Optimizer):
    """Holds two optimizers and never initialises itself."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.one, self.other = optimizer, torch.optim.SGD([nn.Parameter(torch.ones(1))])


def layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def workload_of(model: nn.Module, bare: nn.Module, optimizer: Any) -> Workload:
    generator = seeded(1)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = bare(torch.rand(64, WIDTH, generator=generator)).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)


def wrapped(wrap: Callable[[torch.optim.Optimizer], Any]) -> Workload:
    model = layers()
    return workload_of(model, model, wrap(adam(model)))


@pytest.mark.parametrize(
    "wrap",
    [Accelerated, Proxy, Sharpened, lambda o: Accelerated(Accelerated(o)), lambda o: Proxy(o)],
)
def test_a_wrapped_optimizer_is_followed_where_it_works(wrap: Any) -> None:
    optimizer = adam(layers())
    assert bare_optimizer(wrap(optimizer)) is optimizer


@pytest.mark.parametrize("wrap", [Accelerated, Proxy])
def test_a_step_of_a_wrapped_optimizer_is_recorded_and_replayed(wrap: Any) -> None:
    plain = wrapped(lambda optimizer: optimizer)
    profile = record_at_fixed_times(wrapped(wrap))
    names = {storage.name for storage in profile.storages}
    assert "state:0.weight.exp_avg" in names
    given = adam(model := layers())
    replayed = workload_of(model, model, wrap(given))
    with LoadedPlan(everything_away(profile)).attach(model, wrap(given)) as replay:
        for _ in range(3):
            plain.step()
            with replay.step() as statistics:
                replayed.step()
    assert (statistics.fallback, replay.fallbacks) == (None, 0)
    assert statistics.d2h_bytes > 0
    assert_same(snapshot(replayed), snapshot(plain))


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (
            lambda o: [],
            r"optimizer is a list, expected a torch\.optim\.Opt.* a list of those that the step",
        ),
        (lambda o: {o}, r"optimizer is a set, .*Hand in one, or a list of those"),
        (lambda o: [o, "another"], r"optimizer is a str, expected a torch\.optim\.Opt"),
        (lambda o: [o, torch.optim.SGD(o.param_groups[0]["params"])], "train one parameter"),
        (
            torch.optim.lr_scheduler.ConstantLR,
            "is a ConstantLR, .* the optimizer it schedules",
        ),
        (Scheduler, "optimizer is a Scheduler, .* Hand in the optimizer it schedules"),
        (lambda o: type(o), "optimizer is a type, .* Hand in the optimizer that was made from"),
        (lambda o: None, "optimizer is a NoneType, .* Hand in the optimizer whose step"),
        (Several, r"is a Several that never called torch\.optim\.Optimizer\.__init__"),
    ],
)
def test_what_is_no_optimizer_is_refused_in_one_line(wrap: Any, message: str) -> None:
    model = layers()
    given = wrap(adam(model))
    profile = record_at_fixed_times(workload_of(model, model, adam(model)))
    plan = everything_away(profile)
    for refused in (
        lambda: Workload(model=model, optimizer=given, step=torch.Tensor),
        lambda: LoadedPlan(plan).attach(model, given),
    ):
        with pytest.raises(WorkloadError, match=message) as told:
            refused()
        assert "\n" not in str(told.value)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_what_is_no_model_is_refused() -> None:
    model = layers()
    for given, message in (
        ([model], r"model is a list, expected a torch\.nn\.Module\. Put the models into one"),
        (model.forward, "model is a method, .* Hand in the module whose parameters"),
    ):
        with pytest.raises(WorkloadError, match=message):
            Workload(model=given, optimizer=adam(model), step=torch.Tensor)  # type: ignore[arg-type]


def test_an_optimizer_of_another_model_is_refused() -> None:
    workload = wrapped(lambda optimizer: optimizer)
    profile = record_at_fixed_times(workload)
    other = layers()
    with pytest.raises(PlanMismatchError, match="None of the optimizer's 4 parameters is the"):
        LoadedPlan(everything_away(profile)).attach(other, workload.optimizer)
    with pytest.raises(WorkloadError, match="None of the optimizer's 4 parameters is the model's"):
        Workload(model=other, optimizer=workload.optimizer, step=workload.step)


def test_an_optimizer_of_more_than_the_model_is_taken() -> None:
    model, head = layers(), nn.Linear(1, 1)
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()])
    assert Workload(model=model, optimizer=optimizer, step=torch.Tensor).optimizer is optimizer


class OptimizedModule(nn.Module):
    """Made as what `torch.compile` returns is, without compiling anything."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._orig_mod = model

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self._orig_mod(rows)


def test_a_compiled_model_has_the_names_of_the_model() -> None:
    model = layers()
    optimizer = adam(model)
    compiled = OptimizedModule(model)
    assert describe_model(compiled, optimizer) == describe_model(model, optimizer)
    named = {owner.name for owner in owned_storages(compiled, optimizer)}
    assert named == {owner.name for owner in owned_storages(model, optimizer)}
    profile = record_at_fixed_times(workload_of(compiled, compiled, optimizer))
    with LoadedPlan(everything_away(profile)).attach(compiled, optimizer) as replay:
        workload = workload_of(compiled, compiled, optimizer)
        for _ in range(2):
            with replay.step() as statistics:
                workload.step()
    assert (statistics.fallback, replay.fallbacks) == (None, 0)


def test_torch_compile_names_its_class_as_is_expected() -> None:
    """The class is found by its name, as importing it takes seconds."""
    import torch._dynamo

    assert torch._dynamo.OptimizedModule.__name__ == "OptimizedModule"


HELD_BY_THE_MODULE = {"table": torch.ones(3)}
NEVER_NAMED = torch.ones(5)


def by_a_global() -> torch.Tensor:
    return HELD_BY_THE_MODULE["table"]


def reached(step: Callable[[], torch.Tensor]) -> set[int]:
    model = nn.Linear(1, 1)
    workload = Workload(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), step=step
    )
    found = reached_tensors(workload.model, workload.optimizer, workload.step)
    assert {id(p) for p in model.parameters()} <= set(map(id, found))
    return set(map(id, found))


def test_what_a_step_closes_over_is_reached() -> None:
    batches = [torch.ones(2), torch.ones(2)]
    nested = {"pair": (torch.ones(1), [torch.ones(1)])}

    def step(default: torch.Tensor = batches[0]) -> torch.Tensor:
        return default + batches[1] + nested["pair"][0]

    expected = [*batches, nested["pair"][0], nested["pair"][1][0]]
    assert set(map(id, expected)) <= reached(step)


def test_globals_are_reached_by_the_names_in_the_code() -> None:
    def step() -> torch.Tensor:
        return by_a_global()

    found = reached(step)
    assert id(HELD_BY_THE_MODULE["table"]) in found
    assert id(NEVER_NAMED) not in found


def test_objects_generators_and_partial_functions_are_entered() -> None:
    class Loader:
        def __init__(self) -> None:
            self.held = torch.ones(4)

        def step(self) -> torch.Tensor:
            return self.held

    def stream() -> Iterator[torch.Tensor]:
        waiting = torch.ones(6)
        while True:
            yield waiting

    loader, batches = Loader(), stream()
    waiting = next(batches)
    assert id(loader.held) in reached(loader.step)
    assert id(waiting) in reached(lambda: next(batches))
    assert id(waiting) in reached(functools.partial(torch.add, waiting, waiting))


def test_gradients_are_reached() -> None:
    leaf = torch.ones(2, requires_grad=True)
    leaf.sum().backward()
    assert leaf.grad is not None
    assert id(leaf.grad) in reached(lambda: leaf.detach())
