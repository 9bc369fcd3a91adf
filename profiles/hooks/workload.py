"""A training step that can be profiled and replayed: model, optimizer, and one callable.

What callers hand in as a model and an optimizer: taken out of its wrappers, or refused.

Libraries wrap optimizers, and what a wrapper's `step` does is done by the one inside: only that one
calls hooks and holds the states. `accelerate` gives back an `AcceleratedOptimizer`, Lightning a
`LightningOptimizer` that is no `torch.optim.Optimizer`, and Lookahead or SAM hold a base optimizer.

Code that will not run while autograd's saved tensors are looked at, as recording looks at them.

`torch.func.grad`, `vjp`, `jacrev` and `hessian` refuse hooks on saved tensors, and so does whatever
else runs inside `torch.autograd.graph.disable_saved_tensors_hooks`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from profiles.schema.errors import WorkloadError


def bare_optimizer(given: Any) -> torch.optim.Optimizer:
    """Returns the optimizer inside any wrappers: the one whose `step` calls hooks.

    Raises:
        WorkloadError: It is none, or one that no hook can be registered on.
    """
    seen: set[int] = set()
    found = given
    while id(found) not in seen:
        seen.add(id(found))
        inner = _inner(found)
        if inner is None:
            break
        found = inner
    if not isinstance(found, torch.optim.Optimizer):
        raise WorkloadError(
            f"optimizer is a {type(given).__name__}, expected a torch.optim.Optimizer. "
            f"{_what_to_do(given)}"
        )
    if "_optimizer_step_pre_hooks" not in vars(found):
        raise WorkloadError(
            f"optimizer is a {type(given).__name__} that never called "
            "torch.optim.Optimizer.__init__, and it holds no single optimizer that did. Hand in "
            "the torch.optim.Optimizer whose step() updates the parameters."
        )
    return found


def bare_module(given: Any) -> torch.nn.Module:
    """Returns a model as it is, if it is one.

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


def foreign_optimizer_fault(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> str | None:
    """Says that an optimizer trains no parameter of a model; None if it trains some."""
    owned = {id(parameter) for parameter in model.parameters()}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not owned or any(id(parameter) in owned for parameter in trained):
        return None
    return (
        f"None of the optimizer's {len(trained)} parameters is the model's. Hand in the optimizer "
        "that was made from model.parameters() of this very model."
    )


def _inner(wrapper: Any) -> torch.optim.Optimizer | None:
    """Returns the one optimizer that a wrapper holds; None if it holds none, or several."""
    if not (callable(getattr(wrapper, "step", None)) and hasattr(wrapper, "zero_grad")):
        # A learning rate scheduler holds its optimizer, too.
        return None
    held = [*getattr(wrapper, "__dict__", {}).values(), getattr(wrapper, "optimizer", None)]
    inner = {id(v): v for v in held if isinstance(v, torch.optim.Optimizer) and v is not wrapper}
    return next(iter(inner.values())) if len(inner) == 1 else None


def _what_to_do(given: Any) -> str:
    if isinstance(given, (list, tuple, dict, set)):
        return (
            "A plan follows one optimizer: make a single one with a parameter group for each, or "
            "hand in the one whose step() ends the training step."
        )
    if isinstance(given, type):
        return "Hand in the optimizer that was made from the class."
    scheduled = getattr(given, "optimizer", None)
    if isinstance(scheduled, torch.optim.Optimizer) or hasattr(given, "get_last_lr"):
        return "Hand in the optimizer it schedules."
    return "Hand in the optimizer whose step() updates the model's parameters."


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What `plan profile` and `plan run` train.

    Attributes:
        model: The model, with its parameters on the device already.
        optimizer: The optimizer over the model's parameters, taken out of any wrapper.
        step: Runs one whole training step, from fetching the batch to `optimizer.step()`, and
            returns the loss.

    Raises:
        WorkloadError: The model or the optimizer is none, or they do not belong together.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[], torch.Tensor]

    def __post_init__(self) -> None:
        bare_module(self.model)
        object.__setattr__(self, "optimizer", bare_optimizer(self.optimizer))
        fault = foreign_optimizer_fault(self.model, self.optimizer)
        if fault is not None:
            raise WorkloadError(fault)

    def held(self) -> "Workload":
        """Returns it with each loss held until the next one is there, as training loops do.

        `loss = step()` in a loop drops the loss of one step when that of the next has been made.
        """
        return replace(self, step=_HoldingStep(self.step))


class _HoldingStep:
    """A step that keeps what it returned last."""

    def __init__(self, step: Callable[[], torch.Tensor]) -> None:
        self._step = step
        self._loss: torch.Tensor | None = None

    def __call__(self) -> torch.Tensor:
        self._loss = self._step()
        return self._loss


_WORDS = ("saved tensor hooks", "saved tensors hooks")

MESSAGE = (
    "The step calls torch.func.grad or other code that forbids hooks on saved tensors, which show "
    "a recording and a plan what autograd keeps: such a step cannot be recorded. Compute that "
    "gradient with torch.autograd.grad, or outside the step."
)


def is_refusal_of_hooks(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that hooks on saved tensors are forbidden."""
    while error is not None:
        if isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS):
            return True
        error = error.__cause__
    return False


@contextmanager
def refusal_told() -> Iterator[None]:
    """Says in one line that the step inside cannot be recorded, where that is why it failed.

    Raises:
        WorkloadError: The step forbids hooks on saved tensors.
    """
    try:
        yield
    except Exception as error:
        if is_refusal_of_hooks(error) and MESSAGE not in str(error):
            raise WorkloadError(MESSAGE) from error
        raise
