"""A training step that can be profiled and replayed, and the tensors that it can reach.

[Note: bare optimizers] Libraries wrap optimizers, and what a wrapper's `step` does is done by the
one inside: only that one calls hooks and holds the states. `accelerate` gives back an
`AcceleratedOptimizer`, Lightning a `LightningOptimizer` that is no `torch.optim.Optimizer`, and
Lookahead or SAM hold a base optimizer.
"""

import gc
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from profiles.hooks.several_optimizers import SeveralOptimizers, each_optimizer
from profiles.schema.errors import WorkloadError

MOST_OBJECTS = 2_000_000
"""Looked at; a step that reaches more than these holds its tensors nearer than that."""
_LEADS_EVERYWHERE = (types.ModuleType, type, types.CodeType, types.FrameType)
_LEADS_NOWHERE = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A model and the optimizer that trains it.

    Attributes:
        model: The model, with its parameters on the device already.
        optimizer: The optimizer over the model's parameters, taken out of any wrapper; several in
            a list are made one (`profiles.hooks.several_optimizers`).

    Raises:
        WorkloadError: The model or the optimizer is none, or they do not belong together.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer

    def __post_init__(self) -> None:
        bare_module(self.model)
        object.__setattr__(self, "optimizer", bare_optimizer(self.optimizer))
        fault = foreign_optimizer_fault(self.model, self.optimizer)
        if fault is not None:
            raise WorkloadError(fault)


@dataclass(frozen=True, kw_only=True)
class Workload(Training):
    """What `plan profile` and `plan run` train.

    Attributes:
        step: Runs one whole training step, from fetching the batch to `optimizer.step()`, and
            returns the loss.
    """

    step: Callable[[], torch.Tensor]

    def held(self) -> "Workload":
        """Returns it with each loss held until the next one is there, as training loops do.

        `loss = step()` in a loop drops the loss of one step when that of the next has been made.
        """
        return replace(self, step=_HoldingStep(self.step))


class _HoldingStep:
    # No function with a cell: `reached_tensors` would come to the loss later.
    def __init__(self, step: Callable[[], torch.Tensor]) -> None:
        self._step = step
        self._loss: torch.Tensor | None = None

    def __call__(self) -> torch.Tensor:
        self._loss = self._step()
        return self._loss


def bare_module(given: Any) -> torch.nn.Module:
    """Returns a model as it is.

    Raises:
        WorkloadError: It is no `torch.nn.Module`.
    """
    if isinstance(given, torch.nn.Module):
        return given
    several = isinstance(given, (list, tuple, dict, set))
    advice = (
        "Put the models into one torch.nn.ModuleList and hand in that one."
        if several
        else "Hand in the module whose parameters are trained."
    )
    raise WorkloadError(f"model is a {type(given).__name__}, expected a torch.nn.Module. {advice}")


def bare_optimizer(given: Any) -> torch.optim.Optimizer:
    """Returns the optimizer inside any wrappers: the one whose `step` calls hooks.

    Several, in a list, a tuple or the values of a dictionary, are followed as one.

    Raises:
        WorkloadError: It is none, or one that no hook can be registered on.
    """
    if isinstance(given, SeveralOptimizers):
        return given
    if isinstance(given, (list, tuple, dict)) and given:
        several = given.values() if isinstance(given, dict) else given
        bare = tuple(dict.fromkeys(map(bare_optimizer, several)))
        return bare[0] if len(bare) == 1 else SeveralOptimizers(bare)
    seen: set[int] = set()
    found = given
    while id(found) not in seen:
        seen.add(id(found))
        found = _inner_optimizer(found) or found
    if not isinstance(found, torch.optim.Optimizer):
        raise WorkloadError(
            f"optimizer is a {type(given).__name__}, expected a torch.optim.Optimizer. "
            f"{_advice(given)}"
        )
    if "_optimizer_step_pre_hooks" not in vars(found):
        raise WorkloadError(
            f"optimizer is a {type(given).__name__} that never called "
            "torch.optim.Optimizer.__init__, and it holds no single optimizer that did. Hand in "
            "the torch.optim.Optimizer whose step() updates the parameters."
        )
    return found


def foreign_optimizer_fault(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> str | None:
    """Says that an optimizer trains no parameter of a model; None if each trains some."""
    owned = {id(parameter) for parameter in model.parameters()}
    several = each_optimizer(optimizer)
    for number, one in enumerate(several):
        trained = [parameter for group in one.param_groups for parameter in group["params"]]
        if not owned or any(id(parameter) in owned for parameter in trained):
            continue
        which = (
            "the optimizer" if len(several) == 1 else f"optimizer {number}, {type(one).__name__},"
        )
        return (
            f"None of {which}'s {len(trained)} parameters is the model's. Hand in the optimizer "
            "that was made from model.parameters() of this very model, and of several models a "
            "torch.nn.ModuleList."
        )
    return None


def _inner_optimizer(wrapper: Any) -> torch.optim.Optimizer | None:
    """Returns the one optimizer that a wrapper holds; None if it holds none, or several."""
    if not (callable(getattr(wrapper, "step", None)) and hasattr(wrapper, "zero_grad")):
        # A learning rate scheduler holds its optimizer, too.
        return None
    held = [*getattr(wrapper, "__dict__", {}).values(), getattr(wrapper, "optimizer", None)]
    inner = {id(v): v for v in held if isinstance(v, torch.optim.Optimizer) and v is not wrapper}
    return next(iter(inner.values())) if len(inner) == 1 else None


def _advice(given: Any) -> str:
    if isinstance(given, (list, tuple, dict, set)):
        return "Hand in one, or a list of those that the step calls."
    if isinstance(given, type):
        return "Hand in the optimizer that was made from the class."
    scheduled = getattr(given, "optimizer", None)
    if isinstance(scheduled, torch.optim.Optimizer) or hasattr(given, "get_last_lr"):
        return "Hand in the optimizer it schedules."
    return "Hand in the optimizer whose step() updates the model's parameters."


def reached_tensors(*roots: object) -> tuple[torch.Tensor, ...]:
    """Returns every tensor that a model, an optimizer, a step or a loop's variables reach, once.

    A step may hold tensors that most steps never touch: batches in a list that it goes through in
    turn, one fetched ahead, the second network of a pair. They take memory from the first step on,
    so they are looked for in what the step's function closes over, the globals that its code names,
    and whatever hangs on those. Modules and classes lead everywhere and are not entered.
    """
    found: dict[int, torch.Tensor] = {}
    seen: set[int] = set()
    # What is held here lives meanwhile, so no id is used twice.
    waiting: list[Any] = list(roots)
    while waiting and len(seen) < MOST_OBJECTS:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        # The type is asked, not the object: proxies would answer for what they stand for.
        if issubclass(type(thing), torch.Tensor):
            found[id(thing)] = thing
            if thing.is_leaf and thing.grad is not None:
                waiting.append(thing.grad)
        waiting.extend(_referents(thing))
    return tuple(found.values())


class CallersVariables:
    """What the function that begins a step can reach, until it is asked for it.

    [Note: frames of callers] The function may return before the step ends, as a callback does that
    enters a `with` statement by hand. Whoever keeps its frame then keeps all of its variables, the
    batch that it was handed among them, and with them memory that the step would have given back.
    So a frame is let go of when what it holds has been looked at, at the begin of the step.
    """

    def __init__(self, frame: types.FrameType) -> None:
        self._frame: types.FrameType | None = frame

    def __call__(self) -> tuple[object, ...]:
        """Returns what the variables hold now, the first time; nothing later."""
        frame, self._frame = self._frame, None
        if frame is None:
            return ()
        variables = frame.f_locals
        held = tuple(variables.values())
        if frame.f_code.co_flags & inspect.CO_OPTIMIZED and isinstance(variables, dict):
            # A copy that the frame would keep, and with it all that the function drops from now on.
            variables.clear()
        return held


def _referents(thing: Any) -> Iterator[Any]:
    is_function = isinstance(thing, types.FunctionType)
    for candidate in _of_function(thing) if is_function else gc.get_referents(thing):
        if not issubclass(type(candidate), (*_LEADS_EVERYWHERE, *_LEADS_NOWHERE)):
            yield candidate


def _of_function(function: types.FunctionType) -> Iterator[Any]:
    """What a function holds: all of its globals would be the whole module it is defined in."""
    for cell in function.__closure__ or ():
        if cell != types.CellType():
            yield cell.cell_contents
    yield from (function.__defaults__, function.__kwdefaults__, function.__dict__)
    for name in _names_in(function.__code__):
        yield function.__globals__.get(name)


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)
