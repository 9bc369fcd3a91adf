"""Fake twins of real tensors: the same description, no memory, on the device of an estimate."""

import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from profiles.errors import WorkloadError
from profiles.workload import Workload


class Twins:
    """Makes one fake storage for each real one and device.

    A twin's storage lives as long as the real storage, or longer if somebody holds the twin, so
    that both are released at the same point of a step.

    Attributes:
        mode: The mode that the twins belong to.
        device: The device of the estimate.
        learn: Told of each new twin and its real tensor.
        fixed: Ids of the fake storages whose real twin cannot be resized.
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
        """Returns the twin of a real tensor on a device, or the tensor itself if it is fake."""
        if isinstance(tensor, FakeTensor):
            return tensor
        with _disable_current_modes(), torch.no_grad():
            is_new = (tensor.untyped_storage()._cdata, device) not in self._bytes_of
            with self.mode:
                twin = self._twin(tensor, device)
            if is_new:
                self.learn(twin, tensor.detach())
        return twin

    def _twin(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
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


def turn_fake(workload: Workload, others: Iterable[torch.Tensor], twins: Twins) -> None:
    """Turns every tensor of a workload into its fake twin, in place.

    [Note: turned in place] A tensor's Python object stays and changes what it is, so that tied
    weights stay tied, and the optimizer and whoever else holds a parameter hold the fake one.

    Args:
        workload: Whose model and optimizer to turn.
        others: Further tensors, such as batches that the step holds. Those that cannot be turned
            are left as they are.
        twins: Makes the twins.

    Raises:
        WorkloadError: A tensor of the model is held in a way that does not let it be turned.
    """
    for name, tensor in _held(workload):
        # Optimizers keep their step counts on the CPU.
        counts = name.startswith("state ") and tensor.dim() == 0
        try:
            _turn(tensor, twins, torch.device("cpu") if counts else twins.device)
        except RuntimeError as error:
            raise WorkloadError(
                f"{name} cannot be made fake ({' '.join(str(error).split())}). Register hooks on "
                "parameters in the step, not where the model is built, or profile on a device."
            ) from error
    for tensor in others:
        with suppress(RuntimeError):
            _turn(tensor, twins, twins.device)


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


def _turn(tensor: torch.Tensor, twins: Twins, device: torch.device) -> None:
    if isinstance(tensor, FakeTensor):
        return
    twin = twins.of(tensor, device)
    with twins.mode:
        if isinstance(tensor, torch.nn.Parameter):
            twin = torch.nn.Parameter(twin, requires_grad=tensor.requires_grad)
        else:
            twin.requires_grad_(tensor.requires_grad)
    twin.__dict__.update(tensor.__dict__)
    # The mode remembers by weak reference what it made, and such a tensor cannot be turned.
    twins.mode.fake_tensor_converter.meta_converter.tensor_memo.clear()
    torch.utils.swap_tensors(tensor, twin)
