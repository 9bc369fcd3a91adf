"""What the emulated accelerator counts, and its budget."""

from dataclasses import dataclass

import pytest
import torch

from runtime.storage.accountant import Accountant, EmulatedOutOfMemoryError
from runtime.storage.residency import TrackedStorage

pytestmark = pytest.mark.cpu_only

CPU = torch.device("cpu")


@dataclass
class DiedAway:
    """The record of a storage that was freed while its bytes were on the host."""

    cdata: int

    def is_held_as(self, storage: torch.UntypedStorage | None) -> bool:
        return False

    def forget_copy(self) -> None:
        """It has none any more."""


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


def test_what_gets_the_address_of_one_that_died_while_it_was_away_is_counted() -> None:
    """Nothing says when it dies: its record is found out by what is at its address."""
    accountant = Accountant(CPU, None)
    late = torch.zeros(100)
    with accountant:
        accountant.guarded.forbid(DiedAway(late.untyped_storage()._cdata))
        accountant.memory.count([late.untyped_storage()])
        assert accountant.memory.live_bytes == 400
        del late
        assert accountant.memory.live_bytes == 0


def test_one_that_is_away_counts_by_what_moves_it_alone() -> None:
    accountant = Accountant(CPU, None)
    away = torch.zeros(100)
    with accountant:
        accountant.guarded.forbid(TrackedStorage(away.untyped_storage(), accountant))
        accountant.memory.count([away.untyped_storage()])
        assert accountant.memory.live_bytes == 0
