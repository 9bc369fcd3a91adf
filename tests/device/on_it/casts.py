"""What `torch.autocast` makes of ops on the device."""

from collections.abc import Callable

import torch
from torch.nn import functional

from tests.device.accelerator import device
from tests.device.build import NAME

HALF, SINGLE = torch.bfloat16, torch.float32
Make = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
CASTS: dict[str, tuple[Make, torch.dtype]] = {
    "in lower precision": (lambda single, _: single @ single, HALF),
    "in single precision": (lambda _, half: half.exp(), SINGLE),
    "in single precision, if nothing else is said": (lambda _, half: half.softmax(0), SINGLE),
    "as it is said": (lambda single, _: single.softmax(0, dtype=HALF), HALF),
    "with the type appended": (lambda _, half: half.norm(), SINGLE),
    "in the widest of its types": (lambda single, half: torch.dot(single[0], half[0]), SINGLE),
    "as its input is": (lambda _, half: functional.relu(half), HALF),
}


def test_ops_are_cast_as_torch_casts_them_on_any_device() -> None:
    single = torch.ones(4, 4, device=device())
    half = single.to(HALF)
    with torch.autocast(NAME, dtype=HALF):
        found = {name: make(single, half).dtype for name, (make, _) in CASTS.items()}
    assert found == {name: dtype for name, (_, dtype) in CASTS.items()}
    assert (single @ single).dtype is SINGLE
