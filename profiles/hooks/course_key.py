"""The courses of a training loop, told apart by what is known when a step's first module is called.

A loop takes several: the last batch of an epoch is short, batches are padded to different lengths,
two models take turns. What the first module is handed says which one this step takes. Courses that
begin alike and part later (the window of accumulation at an epoch's end, an update that a loss
scaler skips) are one course here.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch


def course_of(module: str, trains: bool, args: Any, kwargs: Any) -> str:
    """Returns the course of a step whose first module is called with some arguments.

    Args:
        module: The module's name.
        trains: Whether the model is in training mode.
        args: What the module is called with.
        kwargs: The same, by name.

    Returns:
        A line of text; two steps of one course have the same.
    """
    words = list(_words("", (args, kwargs)))
    return f"{module or 'model'}({', '.join(words)}){'' if trains else ' in evaluation mode'}"


def key_of(*facts: str) -> str:
    """Returns a short name for a file, the same for the same facts only."""
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _words(name: str, value: Any) -> Iterator[str]:
    """Yields a word for each tensor in a value: numbers may change from step to step."""
    if isinstance(value, torch.Tensor):
        shape = "x".join(map(str, value.shape)) or "number"
        yield f"{name}={str(value.dtype).removeprefix('torch.')}[{shape}]".removeprefix("=")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _words(str(key), item)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _words(name, item)
    elif is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            yield from _words(part.name, getattr(value, part.name))
