"""Fake tensors in place of real ones: the same description, no memory, on the estimate's device.

Where a fake tensor would make a step take another course than a real one, what is here hides that.
"""

import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import graph
from torch.optim import optimizer
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

from profiles.hooks.dispatch import tensors_in
from profiles.hooks.workload import Workload
from profiles.schema.errors import WorkloadError

CPU = torch.device("cpu")


class FakeTensors:
    """Makes one fake storage for each real one and device.

    It lives as long as the real storage, or longer if a tensor of it is held, so that both are
    released at the same point of a step.

    Attributes:
        mode: The mode that the fake tensors belong to.
        device: The device of the estimate.
        learn: Called with the first fake tensor of each storage and its real tensor.
        fixed: Ids of the fake storages whose real storage cannot be resized.
    """

    def __init__(
        self,
        mode: FakeTensorMode,
        device: torch.device,
        learn: Callable[[torch.Tensor, torch.Tensor], None],
    ) -> None:
        self.mode = mode
        self.device = device
        self.learn = learn
        self.fixed: set[int] = set()
        self._bytes_of: dict[tuple[int, torch.device], torch.Tensor] = {}

    def of(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Returns a real tensor as a fake one on a device; one that is fake as it is."""
        if isinstance(tensor, FakeTensor):
            return tensor
        with _disable_current_modes(), torch.no_grad():
            is_new = (tensor.untyped_storage()._cdata, device) not in self._bytes_of
            with self.mode:
                fake = self._fake(tensor, device)
            if is_new:
                self.learn(fake, tensor.detach())
        return fake

    def _fake(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        of_bytes = self._storage(tensor.untyped_storage(), device)
        whole = of_bytes[: len(of_bytes) // tensor.itemsize * tensor.itemsize].view(tensor.dtype)
        return whole.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset()).detach()

    def _storage(self, storage: torch.UntypedStorage, device: torch.device) -> torch.Tensor:
        key = (storage._cdata, device)
        if key not in self._bytes_of:
            of_bytes = torch.empty(storage.nbytes(), dtype=torch.uint8, device=device)
            self._bytes_of[key] = of_bytes
            weakref.finalize(storage, self._bytes_of.pop, key, None).atexit = False
            if device.type == "cpu" and not storage.resizable():
                self.fixed.add(of_bytes.untyped_storage()._cdata)
        return self._bytes_of[key]


def turn_fake(workload: Workload, others: Iterable[torch.Tensor], fakes: FakeTensors) -> None:
    """Turns every tensor of a workload into a fake one, in place, and other tensors where possible.

    [Note: turned in place] A tensor's Python object stays and changes what it is, so that tied
    weights stay tied, and the optimizer and all else that holds a parameter hold the fake one.

    Raises:
        WorkloadError: A tensor of the model is held in a way that does not let it be turned.
    """
    for name, tensor in _held(workload):
        # Optimizers keep their step counts on the CPU.
        counts = name.startswith("state ") and tensor.dim() == 0
        try:
            _turn(tensor, fakes, CPU if counts else fakes.device)
        except RuntimeError as error:
            raise WorkloadError(
                f"{name} cannot be made fake ({' '.join(str(error).split())}). Register hooks on "
                "parameters in the step, not where the model is built, or profile on a device."
            ) from error
    for tensor in others:
        with suppress(RuntimeError):
            _turn(tensor, fakes, fakes.device)


def _held(workload: Workload) -> list[tuple[str, torch.Tensor]]:
    model, optimizer = workload.model, workload.optimizer
    held: list[tuple[str, torch.Tensor]] = []
    held += [(f"parameter {name!r}", parameter) for name, parameter in model.named_parameters()]
    held += [(f"buffer {name!r}", buffer) for name, buffer in model.named_buffers()]
    for parameter, state in list(optimizer.state.items()):
        held += [(f"state {k!r}", v) for k, v in state.items() if isinstance(v, torch.Tensor)]
        if parameter.grad is not None:
            held.append(("gradient", parameter.grad))
    return held


def _turn(tensor: torch.Tensor, fakes: FakeTensors, device: torch.device) -> None:
    if isinstance(tensor, FakeTensor):
        return
    fake = fakes.of(tensor, device)
    with fakes.mode:
        if isinstance(tensor, torch.nn.Parameter):
            fake = torch.nn.Parameter(fake, requires_grad=tensor.requires_grad)
        else:
            fake.requires_grad_(tensor.requires_grad)
    fake.__dict__.update(tensor.__dict__)
    # The mode remembers by weak reference what it made, and such a tensor cannot be turned.
    fakes.mode.fake_tensor_converter.meta_converter.tensor_memo.clear()
    torch.utils.swap_tensors(tensor, fake)


ASKS_DEVICE = torch.ops.prim.device.default
ENGINE = graph._engine_run_backward.__code__
WRAPS_DISPATCH = frozenset({"disable_fn", "inner", "_fn"})
"""Frames that torch puts around a mode's own."""


class Entrance(TorchDispatchMode):
    """The outermost mode of an estimate.

    What a step makes is fake from the start, except what it takes from elsewhere: numbers in
    Python lists, NumPy arrays, files. Those are on the CPU until the step moves them.
    """

    def __init__(self, fakes: FakeTensors) -> None:
        super().__init__()
        self._fakes = fakes

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is ASKS_DEVICE:
            return CPU if _asked_by_engine() else args[0].device
        kwargs = kwargs or {}
        if any(not isinstance(tensor, FakeTensor) for tensor, _ in tensors_in(func, args, kwargs)):
            args, kwargs = tree_map_only(
                torch.Tensor, lambda tensor: self._fakes.of(tensor, CPU), (args, kwargs)
            )
        return func(*args, **kwargs)


def _asked_by_engine() -> bool:
    """Whether it is autograd's engine that asks for a device, not an op or the user.

    [Note: the engine and absent devices] For a gradient on an accelerator the engine looks up that
    accelerator's streams, which fails where there is none. A fake gradient needs no stream, and the
    engine does not compare the devices of tensor subclasses, so its question is answered with the
    CPU. All others, recomputation inside backward included, get the tensor's device.
    """
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and frame.f_code.co_name in WRAPS_DISPATCH:
        frame = frame.f_back
    return frame is not None and frame.f_code is ENGINE


class ViewWrites(TorchFunctionMode):
    """Hands on, in place of a view that was written, the same view made by `as_strided`.

    [Note: views written in place] Once a view has been written, autograd needs a new gradient
    function for it. For a real tensor it takes that of `as_strided`, whose backward fills a new
    storage of the base's size. For a tensor subclass it runs the original view again, and needs
    no such storage. An estimate must count what the real step does: in a U-Net, which activates in
    place what instance normalization has reshaped, that storage is as large as the activation. So
    the function that writes returns a view made by `as_strided`, outside the trace, for in the
    real step nothing is run for it. A step that keeps using the written tensor itself, not what
    the function returned, gets the subclass's way.

    Attributes:
        view: The view that the function now running may write, None outside.
        is_written: Whether it has been written; the trace sets it. From then on a view of its
            storage is one that autograd runs again, which the real step does not.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        super().__init__()
        self._mode = mode
        self.view: torch.Tensor | None = None
        self.is_written = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        view = args[0] if args else None
        if not (isinstance(view, FakeTensor) and view._is_view() and view.requires_grad):
            return func(*args, **(kwargs or {}))
        self.view, self.is_written = view, False
        version = view._version
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self.view = None
        if result is view and result._version > version:
            with _disable_current_modes(), self._mode:
                assert view._base is not None, "a view has a base"
                return view._base.as_strided(view.size(), view.stride(), view.storage_offset())
        return result


@contextmanager
def replaced(owner: Any, **values: Any) -> Iterator[None]:
    """Gives a module or a class other attributes, as long as this context is open."""
    before = {name: vars(owner)[name] for name in values if name in vars(owner)}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in values:
            if name in before:
                setattr(owner, name, before[name])
            else:
                delattr(owner, name)


@contextmanager
def seen_in_backward(*modes: TorchFunctionMode) -> Iterator[None]:
    """Has modes see what backward calls, as long as this context is open.

    [Note: function modes in backward] torch hands `backward` to a mode as it does any function,
    and takes the mode away while the mode handles it. So what a checkpoint computes again in there
    would not be seen, and would take another course than it took in forward.
    """
    run = vars(torch.autograd)["_engine_run_backward"]

    def run_with_modes(*args: Any, **kwargs: Any) -> Any:
        on = _get_current_function_mode_stack()
        with ExitStack() as around:
            for mode in modes:
                if mode not in on:
                    around.enter_context(mode)
            return run(*args, **kwargs)

    with replaced(torch.autograd, _engine_run_backward=run_with_modes):
        yield


def not_taken_for_tracing() -> AbstractContextManager[None]:
    """Keeps transformers from compiling's way of making masks.

    It takes a fake tensor as a sign of being compiled, and then always makes an attention mask,
    where a step that is run looks at the positions and finds that it needs none.
    """
    module = sys.modules.get("transformers.utils.import_utils")
    if hasattr(module, "is_fake_tensor"):
        return replaced(module, is_fake_tensor=lambda tensor: False)
    return nullcontext()


@contextmanager
def foreach_allowed() -> Iterator[None]:
    """Lets optimizers and gradient clipping handle fake tensors many at a time, as real ones.

    They do so only for the tensor types they list.
    """
    lists: list[list[Any]] = [m._foreach_supported_types for m in (optimizer, _foreach_utils)]
    for types in lists:
        types.append(FakeTensor)
    try:
        yield
    finally:
        for types in lists:
            types.remove(FakeTensor)
