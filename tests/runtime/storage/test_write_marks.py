"""Marks on storages: off after a write, whoever writes; on after a read."""

import threading
from collections.abc import Callable

import pytest
import torch

from runtime.storage.write_marks import WriteMarks, take_off

pytestmark = pytest.mark.cpu_only

CPU = torch.device("cpu")
SOME_ID = 7


def marked() -> tuple[WriteMarks, torch.Tensor]:
    tensor = torch.rand(8, 8)
    marks = WriteMarks(CPU)
    marks.put_on(SOME_ID, tensor.untyped_storage())
    return marks, tensor


def from_a_thread(tensor: torch.Tensor) -> None:
    thread = threading.Thread(target=lambda: tensor.data.mul_(2))
    thread.start()
    thread.join()


@pytest.mark.parametrize(
    "write",
    [
        lambda t: t.data.mul_(2),
        lambda t: t[2:].fill_(1),
        lambda t: torch.add(t, 1, out=t),
        lambda t: torch._foreach_mul_([t], 2.0),
        lambda t: t.numpy().fill(1),
        from_a_thread,
    ],
)
def test_a_write_takes_the_mark_off_and_goes_where_it_should(
    write: Callable[[torch.Tensor], object],
) -> None:
    marks, tensor = marked()
    before, address = tensor.tolist(), getattr(tensor, "const_data_ptr")()  # noqa: B009
    write(tensor)
    assert marks.shows_write(SOME_ID, tensor.untyped_storage())
    assert tensor.tolist() != before
    assert tensor.data_ptr() == address


@pytest.mark.parametrize(
    "read",
    [
        lambda t: t @ t,
        torch.Tensor.sum,
        torch.Tensor.clone,
        lambda t: torch.nn.functional.layer_norm(t, (8,), t[0], t[1]),
        lambda t: torch.nn.functional.conv2d(torch.ones(1, 2, 8, 8), t.view(8, 2, 2, 2)),
        lambda t: torch.optim.AdamW([t], foreach=False).zero_grad(),
        lambda t: t.untyped_storage().nbytes(),
    ],
)
def test_a_read_leaves_it_on(read: Callable[[torch.Tensor], object]) -> None:
    marks, tensor = marked()
    read(tensor)
    assert not marks.shows_write(SOME_ID, tensor.untyped_storage())


def test_a_storage_without_a_mark_shows_nothing() -> None:
    marks, tensor = marked()
    other = torch.ones(3).untyped_storage()
    assert not marks.shows_write(SOME_ID, other), "another has come in place of the marked one"
    assert not marks.shows_write(SOME_ID + 1, tensor.untyped_storage())
    assert not marks.shows_write(SOME_ID, None)
    marks.put_on(SOME_ID, None)


def test_a_storage_whose_mark_is_off_can_be_resized_and_marked_again() -> None:
    marks, tensor = marked()
    storage = tensor.untyped_storage()
    take_off(storage)
    storage.resize_(0)
    storage.resize_(256)
    marks.put_on(SOME_ID, storage)
    tensor.fill_(3)
    assert marks.shows_write(SOME_ID, storage)
    assert tensor.tolist() == [[3.0] * 8] * 8


def test_on_an_accelerator_nothing_is_marked() -> None:
    tensor = torch.rand(4)
    marks = WriteMarks(torch.device("cuda"))
    marks.put_on(SOME_ID, tensor.untyped_storage())
    tensor.fill_(1)
    assert not marks.shows_write(SOME_ID, tensor.untyped_storage())
