"""What the emulated accelerator counts, and its budget."""

import pytest
import torch

from runtime.storage.accountant import Accountant, EmulatedOutOfMemoryError

pytestmark = pytest.mark.cpu_only

CPU = torch.device("cpu")


def test_the_accountant_counts_live_storages() -> None:
    accountant = Accountant(CPU, None)
    with accountant:
        one = torch.zeros(100)
        other = one + 1
        view = other[3:5]
        assert accountant.memory.live_bytes == 800
        del other
        assert accountant.memory.live_bytes == 800, "a view keeps its storage"
        del view
        assert accountant.memory.live_bytes == 400
    assert accountant.memory.peak_bytes == 800
    del one
    assert accountant.memory.live_bytes == 0


def test_the_accountant_enforces_the_budget_to_the_byte() -> None:
    accountant = Accountant(CPU, 800)
    with accountant:
        kept = [torch.zeros(100), torch.zeros(100)]
        with pytest.raises(EmulatedOutOfMemoryError, match="out of memory"):
            kept[0] + 1
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(1)
    with accountant:
        accountant.lift()
        kept.append(torch.zeros(100))
    with accountant, pytest.raises(EmulatedOutOfMemoryError):
        torch.zeros(1)
