"""What a plan depends on of a model and its optimizer, so that a difference can be named.

Needs no torch: shapes and dtypes stand here as torch writes them.
"""

import hashlib
from collections.abc import Iterator

from profiles.schema.files import Count, Record


class DescribedTensor(Record):
    """A parameter or a buffer.

    Attributes:
        name: Its qualified name.
        shape: Its sizes.
        dtype: Its dtype, such as `torch.float32`.
    """

    name: str
    shape: tuple[Count, ...]
    dtype: str

    def __str__(self) -> str:
        sizes = "x".join(map(str, self.shape)) or "a number"
        return f"{sizes} {self.dtype.removeprefix('torch.')}"


class ModelDescription(Record):
    """A model and its optimizer.

    Attributes:
        optimizer: The optimizer's class.
        wrapper: How DistributedDataParallel wraps the model; empty if it does not.
        tensors: Parameters, then buffers, in the model's order.
    """

    optimizer: str
    wrapper: str
    tensors: tuple[DescribedTensor, ...]

    def fingerprint(self) -> str:
        """Returns a digest of all of it."""
        digest = hashlib.sha256((self.optimizer + self.wrapper).encode())
        for tensor in self.tensors:
            digest.update(f"|{tensor.name} {tensor.shape} {tensor.dtype}".encode())
        return digest.hexdigest()


def first_difference(planned: ModelDescription, found: ModelDescription) -> str | None:
    """Returns the first difference between the model of a plan and the one at hand, in words."""
    return next(_differences(planned, found), None)


def _differences(planned: ModelDescription, found: ModelDescription) -> Iterator[str]:
    if found.optimizer != planned.optimizer:
        yield f"the optimizer is {found.optimizer} here, planned {planned.optimizer}"
    here = {tensor.name: tensor for tensor in found.tensors}
    there = {tensor.name for tensor in planned.tensors}
    for tensor in planned.tensors:
        mine = here.get(tensor.name)
        if mine is None:
            other = next((name for name in here if name not in there), None)
            instead = "" if other is None else f", which has {other!r}"
            yield f"{tensor.name!r} is planned and not in this model{instead}"
        elif mine != tensor:
            yield f"{tensor.name!r} is {mine} here, planned {tensor}"
    for tensor in found.tensors:
        if tensor.name not in there:
            yield f"{tensor.name!r} is in this model and not planned"
    if found.wrapper != planned.wrapper:
        yield (
            f"the model is in {found.wrapper or 'no DistributedDataParallel'} here, planned in "
            f"{planned.wrapper or 'none'}"
        )
    for n, (one, mine) in enumerate(zip(planned.tensors, found.tensors, strict=False)):
        if one != mine:
            yield f"tensor {n} of the model is {mine.name!r} here, planned {one.name!r}"
