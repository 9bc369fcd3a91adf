"""From a `WorkloadSource` to a `Workload`, the same one every time."""

import importlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from profiles.schema.errors import WorkloadError, did_you_mean
from profiles.schema.profile import WorkloadSource
from profiles.workloads.catalog import WORKLOADS, Builtin
from profiles.workloads.settings import read_settings

if TYPE_CHECKING:
    import torch

    from profiles.hooks.workload import Workload

HOST_FULL = "can't allocate memory"
"""What torch's allocator for the CPU says."""
LARGEST_SEED = 2**32 - 1
"""What NumPy's generator takes."""


def build(source: WorkloadSource) -> "Workload":
    """Seeds every generator with the source's seed and builds the workload.

    Raises:
        WorkloadError: The source names no workload, its settings are wrong, what it needs is not
            installed, or the user's function fails or returns something else.
    """
    check(source)
    builtin = _builtin(source.reference)
    pairs = dict(source.settings)
    if builtin is None:
        from profiles.workloads.user import load

        users = load(source.reference)
        _seed(source.seed)
        return users(pairs)
    settings = read_settings(builtin.name, builtin.settings, pairs)
    function = _function_of(builtin)
    _seed(source.seed)
    with _host_memory_errors(builtin.name):
        workload = function(**settings)
    return _guarded(builtin.name, workload)


def check(source: WorkloadSource) -> None:
    """Finds the mistakes that can be found before anything slow is loaded.

    Raises:
        WorkloadError: The source names no workload, or its settings are wrong.
    """
    if not 0 <= source.seed <= LARGEST_SEED:
        raise WorkloadError(f"the seed is {source.seed}, expected 0 to {LARGEST_SEED}.")
    keys = [key for key, _ in source.settings]
    double = next((key for key in keys if keys.count(key) > 1), None)
    if double is not None:
        raise WorkloadError(f"setting {double!r} is given twice. Give it once.")
    builtin = _builtin(source.reference)
    if builtin is not None:
        read_settings(builtin.name, builtin.settings, dict(source.settings))


def _builtin(reference: str) -> Builtin | None:
    """The built-in workload of this name; None for the user's own."""
    if reference in WORKLOADS:
        return WORKLOADS[reference]
    if ":" in reference or reference.endswith(".py"):
        return None
    if not reference:
        raise WorkloadError(
            "the step was recorded from Python, so it cannot be built again from here. "
            "Name it with --workload path/to/file.py:function."
        )
    hint = did_you_mean(reference, WORKLOADS, f"Built in: {', '.join(WORKLOADS)}.")
    raise WorkloadError(
        f"there is no workload {reference!r}. {hint} Your own goes in as path/to/file.py:function."
    )


def _function_of(builtin: Builtin) -> "Callable[..., Workload]":
    try:
        module = importlib.import_module(builtin.module)
    except ModuleNotFoundError as error:
        raise WorkloadError(
            f"{builtin.name} needs {error.name}, which is not installed. "
            f"Run: pip install 'swapplan[{builtin.extra}]'"
        ) from error
    function: Callable[..., Workload] = getattr(module, builtin.name)
    return function


@contextmanager
def _host_memory_errors(name: str) -> Iterator[None]:
    """Says in one line that the host has too little memory.

    Raises:
        WorkloadError: An allocation inside failed. A device that is full says so itself.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and HOST_FULL not in str(error):
            raise
        raise WorkloadError(
            f"{name} needs more memory than this machine has. Make it smaller with --set, or "
            "estimate it with 'plan profile --device NAME', which needs none."
        ) from error


def _guarded(name: str, workload: "Workload") -> "Workload":
    def step() -> "torch.Tensor":
        with _host_memory_errors(name):
            return workload.step()

    return replace(workload, step=step)


def _seed(seed: int) -> None:
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
