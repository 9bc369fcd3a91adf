"""How large outputs are foreseen to be, and how large they are."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from profiles.hooks.dispatch import is_bookkeeping, storages_in, storages_of
from runtime.beyond_capacity.output_bytes import output_sizes_bytes
from tests.support.training.models import BUILDERS

CPU = torch.device("cpu")


class Predicted(TorchDispatchMode):
    """Compares what fake tensors say with what each op then allocates."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: set[str] = set()
        self.ops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        predicted = output_sizes_bytes(torch.get_default_device(), func, args, kwargs)
        before = {storage: storage.nbytes() for storage in storages_in(func, args, kwargs)}
        result = func(*args, **kwargs)
        after = {*storages_of(result), *before}
        allocated = sum(storage.nbytes() - before.get(storage, 0) for storage in after)
        self.ops += 1
        if (None if predicted is None else sum(predicted)) != allocated and not is_bookkeeping(
            func
        ):
            self.wrong.add(str(func))
        return result


@pytest.mark.parametrize("name", ["unet3d", "resnet", "gpt2", "accumulating"])
def test_outputs_are_as_large_as_fake_tensors_say(name: str) -> None:
    workload = BUILDERS[name]()
    workload.step()
    with Predicted() as predicted:
        workload.step()
    assert predicted.ops > 80
    # Its scalar sits in a storage of the size of its argument; `SecondTry` is for such ops.
    assert predicted.wrong <= {"aten.mse_loss.default"}


def test_outputs_whose_size_depends_on_data_are_unknown() -> None:
    values = torch.ones(3)
    assert output_sizes_bytes(CPU, torch.ops.aten.nonzero.default, (values,), {}) is None
    assert output_sizes_bytes(CPU, torch.ops.aten._local_scalar_dense.default, (values,), {}) == ()
    assert output_sizes_bytes(CPU, torch.ops.aten.resize_.default, (values, [5]), {}) == (8,)
