"""Code that will not run while autograd's saved tensors are looked at, as recording looks at them.

`torch.func.grad`, `vjp`, `jacrev` and `hessian` refuse hooks on saved tensors, and so does whatever
else runs inside `torch.autograd.graph.disable_saved_tensors_hooks`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from profiles.errors import WorkloadError

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
