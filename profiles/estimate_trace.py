"""The trace of a fake step: ops are timed by a roofline, tensors told by their fake twins."""

from typing import Any

import torch
from torch._ops import OpOverload

from profiles.dispatch import tensors_in
from profiles.op_cost import cost_of
from profiles.roofline import Roofline
from profiles.trace import StepTrace
from profiles.twins import Twins
from profiles.view_writes import ViewWrites

CPU = torch.device("cpu")


class EstimateTrace(StepTrace):
    """Records one fake step while active."""

    def __init__(
        self, device: torch.device, roofline: Roofline, twins: Twins, view_writes: ViewWrites
    ) -> None:
        super().__init__(device)
        self._roofline = roofline
        self._twins = twins
        self._view_writes = view_writes

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        writes = self._view_writes
        if writes.is_written and func.is_view and _shares_storage(writes.view, args[0]):
            return func(*args, **(kwargs or {}))
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if writes.view is not None and func._schema.is_mutable:
            touched = tensors_in(func, args, kwargs or {})
            written = [tensor for tensor, is_written in touched if is_written]
            writes.is_written |= any(_shares_storage(writes.view, tensor) for tensor in written)
        return result

    def on_anchor(self, key: str, shown: torch.Tensor | None) -> None:
        """Opens the next slot; autograd may have saved a real tensor, as the step handed it."""
        super().on_anchor(key, None if shown is None else self._twins.of(shown, CPU))

    def _run(self, func: OpOverload, args: Any, kwargs: Any) -> tuple[Any, float]:
        result = func(*args, **kwargs)
        return result, self._roofline.duration_us(cost_of(func, args, kwargs, result))

    def _is_resizable(self, storage: torch.UntypedStorage) -> bool:
        return storage._cdata not in self._twins.fixed


def _shares_storage(view: torch.Tensor | None, tensor: torch.Tensor) -> bool:
    return view is not None and view.untyped_storage()._cdata == tensor.untyped_storage()._cdata
