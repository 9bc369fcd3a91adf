"""The tensors that a training step can reach before it has used them: what it will find alive.

A step may hold tensors that most steps never touch: batches in a list that it goes through in turn,
one fetched ahead, the second network of a pair. They take memory from the first step on, so they
are looked for where the step's own function can reach them: in what it closes over, the globals
that its code names, and whatever hangs on those. Modules and classes lead everywhere and are not
entered.
"""

import gc
import types
from collections.abc import Iterator
from typing import Any

import torch

from profiles.hooks.workload import Workload

MOST_OBJECTS = 2_000_000
"""Looked at; a step that reaches more than these holds its tensors nearer than that."""

_LEADS_EVERYWHERE = (types.ModuleType, type, types.CodeType, types.FrameType)
_LEADS_NOWHERE = (int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device)


def reached_tensors(workload: Workload) -> tuple[torch.Tensor, ...]:
    """Returns every tensor that a workload's model, optimizer and step can reach, each once."""
    found: dict[int, torch.Tensor] = {}
    seen: set[int] = set()
    # What is held here lives meanwhile, so no id is used twice.
    waiting: list[Any] = [workload.step, workload.model, workload.optimizer]
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


def _referents(thing: Any) -> Iterator[Any]:
    if isinstance(thing, types.FunctionType):
        candidates = _of_function(thing)
    else:
        candidates = iter(gc.get_referents(thing))
    for candidate in candidates:
        kind = type(candidate)
        if not issubclass(kind, _LEADS_EVERYWHERE) and not issubclass(kind, _LEADS_NOWHERE):
            yield candidate


def _of_function(function: types.FunctionType) -> Iterator[Any]:
    """What a function holds: all of its globals would be the whole module it stands in."""
    for cell in function.__closure__ or ():
        if cell != types.CellType():
            yield cell.cell_contents
    yield function.__defaults__
    yield function.__kwdefaults__
    yield function.__dict__
    for name in _names_in(function.__code__):
        yield function.__globals__.get(name)


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)
