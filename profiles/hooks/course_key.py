"""The courses of a training loop, told apart by what is known when a step's first module is called.

A loop takes several: the last batch of an epoch is short, batches are padded to different lengths,
two models take turns. What the first module is handed says which one this step takes; of courses
that begin alike and part later, a digest of the whole step tells one from another
([Note: steps that begin alike] in `profiles.hooks.course_finder`).
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch


def beginning_of(module: str, trains: bool, args: Any, kwargs: Any) -> str:
    """Returns how a step begins whose first module is called with some arguments.

    Args:
        module: The module's name.
        trains: Whether the model is in training mode.
        args: What the module is called with.
        kwargs: The same, by name.

    Returns:
        A line of text; two steps of one course have the same.
    """
    words = list(_words("", (args, kwargs)))
    mode = "" if trains else " in evaluation mode"
    gradients = "" if torch.is_grad_enabled() else " without gradients"
    return f"{module or 'model'}({', '.join(words)}){mode}{gradients}"


def signature_text(calls: int, updates: int, digest: int) -> str:
    """Returns the signature of a step that calls so many modules and updates so many times.

    Args:
        calls: Of modules, in forward.
        updates: Calls of an optimizer.
        digest: Of which they are, in order; 32 bits.
    """
    return f"{calls} calls, {updates} update{'' if updates == 1 else 's'} [{digest:08x}]"


def with_signature(beginning: str, signature: str) -> str:
    """Returns the course of steps with a signature, where others begin alike."""
    return f"{beginning} with {signature}"


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
