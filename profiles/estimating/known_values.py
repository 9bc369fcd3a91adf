"""The values that a fake step can know: those that follow from its program alone.

A model may look at a mask it has just made, or at a counter, to decide what to do. Such tensors are
small and come from constants, so they are computed for real beside the fake ones. What depends on
weights, inputs or random numbers has no value in an estimate.
"""

import traceback
import warnings
import weakref
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
)
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map

from profiles.estimating.fake_tensors import replaced
from profiles.hooks.addresses import touch
from profiles.hooks.dispatch import is_random, tensors_in, tensors_of
from profiles.schema.errors import WorkloadError

ASKS_VALUE = torch.ops.aten._local_scalar_dense.default
MOST_WHOLE_NUMBERS = 65_536
"""Elements of the largest tensor of whole numbers or booleans that is computed."""
UNKNOWN = 0.0
"""What a number is taken to be that an estimate cannot know, such as a loss to be printed."""
TORCH = str(Path(torch.__file__).parent)
PROFILES = str(Path(__file__).parents[1])


class KnownValues(TorchDispatchMode):
    """Computes small tensors beside the fake ones, and answers what asks for a value."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, torch.UntypedStorage] = {}

    def learn(self, fake: torch.Tensor, real: torch.Tensor) -> None:
        """Notes the values of a fake tensor whose real one is at hand, if they may matter."""
        if real.numel() <= _most_elements(real.dtype):
            self._keep(fake, real.clone(memory_format=torch.preserve_format))

    def value_of(self, fake: torch.Tensor) -> torch.Tensor | None:
        """Returns the real tensor that has the values of a fake one; None if they are unknown."""
        storage = self._known.get(fake.untyped_storage()._cdata)
        if storage is None:
            return None
        with _disable_current_modes():
            return torch.empty(0, dtype=fake.dtype).set_(
                storage, fake.storage_offset(), fake.size(), fake.stride()
            )

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is ASKS_VALUE:
            with _disable_current_modes():
                return self.answer(args[0]).item()
        try:
            result = func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise WorkloadError(
                f"{_place()}{func} has a result whose shape depends on values, which an estimate "
                "does not have. Write it with shapes that are known, such as torch.where in place "
                "of a mask as index, or profile on a device."
            ) from error
        self._follow(func, args, kwargs, result)
        return result

    def answer(self, fake: torch.Tensor) -> torch.Tensor:
        """Returns a real tensor for code that looks at a fake one.

        Raises:
            WorkloadError: Its values are not known, and it is no single number to be read.
        """
        real = self.value_of(fake)
        if real is not None:
            return real
        if fake.numel() != 1 or not fake.dtype.is_floating_point:
            what = "a value" if fake.numel() == 1 else f"{fake.numel()} values"
            raise WorkloadError(
                f"{_place()}the step asks for {what} ({fake.dtype}) that depend on its inputs, "
                "which an estimate does not have. Leave the question out of the step, or profile "
                "on a device."
            )
        place = _place()
        if place:
            warnings.warn(
                f"{place}the step asks for the value of a tensor; the estimate takes it to be "
                f"{UNKNOWN}.",
                stacklevel=2,
            )
        with _disable_current_modes():
            return torch.full(fake.shape, UNKNOWN, dtype=fake.dtype)

    def _follow(self, func: OpOverload, args: Any, kwargs: Any, result: Any) -> None:
        """Does on the known values what the op did on the fake ones."""
        inputs = list(tensors_in(func, args, kwargs))
        written = [tensor for tensor, writes in inputs if writes]
        outputs = [*tensors_of(result), *written]
        small = all(tensor.numel() <= _most_elements(tensor.dtype) for tensor in outputs)
        reals = {id(tensor): self.value_of(tensor) for tensor, _ in inputs} if small else {}
        seeded = is_random(func) or "empty" in func._schema.name
        if not outputs or not small or seeded or None in reals.values():
            for tensor in written:
                self._known.pop(tensor.untyped_storage()._cdata, None)
            return

        def real_leaf(leaf: Any) -> Any:
            if isinstance(leaf, FakeTensor):
                return reals[id(leaf)]
            return torch.device("cpu") if isinstance(leaf, torch.device) else leaf

        with _disable_current_modes():
            real_args, real_kwargs = tree_map(real_leaf, (args, kwargs))
            real_result = func(*real_args, **real_kwargs)
        for fake, real in zip(tensors_of(result), tensors_of(real_result), strict=True):
            if fake.untyped_storage()._cdata not in self._known:
                self._keep(fake, real)

    def _keep(self, fake: torch.Tensor, real: torch.Tensor) -> None:
        storage = fake.untyped_storage()
        if real.stride() == fake.stride() and real.untyped_storage().nbytes() == storage.nbytes():
            self._known[storage._cdata] = real.untyped_storage()
            weakref.finalize(storage, self._known.pop, storage._cdata, None).atexit = False


def looks_answered(values: KnownValues) -> AbstractContextManager[None]:
    """Has a tensor answer without an op: `tolist` and `numpy`."""

    def tolist(fake: FakeTensor) -> Any:
        touch(fake, writes=False)
        with _disable_current_modes():
            return values.answer(fake).tolist()

    def as_array(fake: FakeTensor, *, force: bool = False) -> Any:
        touch(fake)
        with _disable_current_modes():
            return values.answer(fake).numpy(force=force)

    return replaced(FakeTensor, tolist=tolist, numpy=as_array)


def _most_elements(dtype: torch.dtype) -> int:
    # One number may be asked for; of whole tensors only masks and positions are.
    return 1 if dtype.is_floating_point or dtype.is_complex else MOST_WHOLE_NUMBERS


def _place() -> str:
    """Says which line outside torch is being run; nothing while torch asks on its own behalf.

    `GradScaler` looks for overflow, for example: there is none in an estimate.
    """
    for frame in reversed(traceback.extract_stack()):
        if frame.filename.startswith((f"{TORCH}/amp", f"{TORCH}/optim")):
            return ""
        if "<" not in frame.filename and not frame.filename.startswith((TORCH, PROFILES)):
            return f"{Path(frame.filename).name}, line {frame.lineno}: "
    return ""
