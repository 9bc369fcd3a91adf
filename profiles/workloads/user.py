"""The user's own training step, by `path/to/file.py:function`."""

import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from profiles.hooks.anchors import REFUSAL, is_refusal_of_hooks
from profiles.hooks.workload import Workload
from profiles.schema.errors import SwapplanError, WorkloadError

EXPECTED = "a profiles.hooks.workload.Workload or a tuple (model, optimizer, step)"


def load(reference: str) -> Callable[[Mapping[str, str]], Workload]:
    """Runs the user's file and returns its function, wrapped to return a checked `Workload`.

    Raises:
        WorkloadError: There is no such file or function, or running the file fails.
    """
    path, name = _split(reference)
    function = getattr(_run_file(path), name, None)
    if not callable(function):
        found = "no such name" if function is None else f"a {type(function).__name__}"
        raise WorkloadError(
            f"{path}: {name} is {found}, expected a function that returns {EXPECTED}."
        )

    def built(pairs: Mapping[str, str]) -> Workload:
        try:
            result = function(**pairs)
        except (Exception, SystemExit) as error:
            raise WorkloadError(f"{reference} failed: {_one_line(error, path)}") from error
        workload = _checked(reference, result)
        return replace(workload, step=_guarded(reference, path, workload.step))

    return built


def _split(reference: str) -> tuple[Path, str]:
    path, colon, name = reference.rpartition(":")
    if not colon or not name.isidentifier():
        raise WorkloadError(f"{reference!r} names no function, expected path/to/file.py:function.")
    if not Path(path).is_file():
        raise WorkloadError(f"{path}: there is no such file. Check the path before the colon.")
    return Path(path), name


def _run_file(path: Path) -> ModuleType:
    name = f"swapplan_workload_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise WorkloadError(f"{path}: no Python file, expected a name that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a class's module up by name.
    sys.modules[name] = module
    # Lets the file import its neighbours, at the top or later, as when Python runs it itself: but
    # at the end, as a neighbour must not stand before a package of the same name.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise WorkloadError(f"{path} cannot be loaded: {_one_line(error, path)}") from error
    return module


def _checked(reference: str, result: Any) -> Workload:
    if isinstance(result, Workload):
        result = (result.model, result.optimizer, result.step)
    if not isinstance(result, tuple) or len(result) != 3:
        found = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise WorkloadError(f"{reference} returned {found}, expected {EXPECTED}.")
    model, optimizer, step = result
    if not callable(step):
        raise WorkloadError(
            f"{reference}: step is a {type(step).__name__}, expected a function without arguments "
            "that trains one step and returns the loss."
        )
    try:
        return Workload(model=model, optimizer=optimizer, step=step)
    except WorkloadError as error:
        raise WorkloadError(f"{reference}: {error}") from error


def _guarded(
    reference: str, path: Path, step: Callable[[], torch.Tensor]
) -> Callable[[], torch.Tensor]:
    """Reports a step's mistakes in one line, as all others are."""

    def guarded() -> torch.Tensor:
        try:
            loss = step()
        except (SwapplanError, torch.OutOfMemoryError):
            # Running out of memory is what `plan run` waits for.
            raise
        except (Exception, SystemExit) as error:
            if is_refusal_of_hooks(error):
                raise WorkloadError(f"{reference}: {REFUSAL}") from error
            message = f"{reference}: the step failed: {_one_line(error, path)}"
            raise WorkloadError(message) from error
        if not isinstance(loss, torch.Tensor):
            raise WorkloadError(
                f"{reference}: the step returned {type(loss).__name__}, expected the loss, a "
                "torch.Tensor."
            )
        return loss

    return guarded


def _one_line(error: BaseException, path: Path) -> str:
    """Says what went wrong, and in which line of the user's file."""
    text = " ".join(str(error).split())
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    return f"{message} ({path.name}, line {lines[-1]})" if lines else message
