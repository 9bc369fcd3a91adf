"""Activation offload with a fixed window, as a baseline.

Written after the description of torchtune's `OffloadActivations` (torchtune 0.6, documentation of
`torchtune.training.OffloadActivations`): every saved tensor of at least 1 KiB that is no parameter
is copied to the host on a stream of its own when it is packed, and back when it is unpacked. Up to
`WINDOW` tensors are held until their copies have ended; no plan and no budget is involved.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd.graph import saved_tensors_hooks

WINDOW = 5
"""torchtune's `max_fwd_stash_size`."""
SMALLEST_BYTES = 1024


class Transfers(Protocol):
    """Copies between a device and the host."""

    def out(self, tensor: torch.Tensor) -> tuple[torch.Tensor, Any]:
        """Issues a copy to the host; returns it and what marks its end."""

    def wait(self, ended: Any) -> None:
        """Lets compute wait for a copy to the host, so that its source may be freed."""

    def back(self, host: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Brings a copy back; compute may use it at once."""


class StreamTransfers:
    """On CUDA: one side stream, pinned memory, events."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def out(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event]:
        """Copies behind what compute was given so far."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            host = torch.empty_like(tensor, device="cpu", pin_memory=True)
            host.copy_(tensor, non_blocking=True)
            return host, self._stream.record_event()

    def wait(self, ended: torch.cuda.Event) -> None:
        """A wait on the device."""
        torch.cuda.current_stream().wait_event(ended)

    def back(self, host: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Copies on the side stream; how far ahead is how far the host runs ahead of the device."""
        compute = torch.cuda.current_stream()
        with torch.cuda.stream(self._stream):
            tensor = host.to(device, non_blocking=True)
        compute.wait_stream(self._stream)
        tensor.record_stream(compute)
        return tensor


class HostTransfers:
    """On the CPU: a copy is over when its call returns."""

    def out(self, tensor: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Copies now."""
        return tensor.clone(), None

    def wait(self, ended: None) -> None:
        """There is nothing to wait for."""

    def back(self, host: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Copies now."""
        return host.clone()


@dataclass(frozen=True)
class _Away:
    """A saved tensor that waits on the host."""

    host: torch.Tensor
    device: torch.device


class FixedWindow(saved_tensors_hooks):
    """Surrounds the forward pass, or a whole step."""

    def __init__(self, device: torch.device) -> None:
        super().__init__(self._pack, self._unpack)
        self._device = device
        self._leaving: deque[tuple[Any, torch.Tensor]] = deque()
        self._transfers: Transfers = StreamTransfers() if device.type == "cuda" else HostTransfers()

    def __exit__(self, *args: object) -> None:
        super().__exit__(*args)
        self._let_go(0)

    def _pack(self, tensor: torch.Tensor) -> "torch.Tensor | _Away":
        owned = isinstance(tensor, torch.nn.Parameter)
        if owned or tensor.nbytes < SMALLEST_BYTES or tensor.device.type != self._device.type:
            return tensor
        host, ended = self._transfers.out(tensor)
        self._leaving.append((ended, tensor))
        self._let_go(WINDOW)
        return _Away(host, tensor.device)

    def _unpack(self, saved: "torch.Tensor | _Away") -> torch.Tensor:
        if isinstance(saved, torch.Tensor):
            return saved
        self._let_go(0)
        return self._transfers.back(saved.host, saved.device)

    def _let_go(self, kept: int) -> None:
        while len(self._leaving) > kept:
            ended, _ = self._leaving.popleft()
            self._transfers.wait(ended)
