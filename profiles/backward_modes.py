"""Keeps torch function modes on while backward runs."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack


@contextmanager
def seen_in_backward(*modes: TorchFunctionMode) -> Iterator[None]:
    """Has modes see what backward calls, as long as this context is open.

    [Note: function modes in backward] torch hands `backward` to a mode as it does any function,
    and takes the mode away while the mode handles it. So what a checkpoint computes again in there
    would not be seen, and would take another course than it took in forward.
    """
    namespace: Any = torch.autograd
    run = namespace._engine_run_backward

    def run_with_modes(*args: Any, **kwargs: Any) -> Any:
        on = _get_current_function_mode_stack()
        with ExitStack() as around:
            for mode in modes:
                if mode not in on:
                    around.enter_context(mode)
            return run(*args, **kwargs)

    namespace._engine_run_backward = run_with_modes
    try:
        yield
    finally:
        namespace._engine_run_backward = run
