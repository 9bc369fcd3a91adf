"""Storages are forgotten when they are released, whatever comes between."""

import pytest
import torch

from profiles.hooks.live_storages import LiveStorages


def storage(size_bytes: int = 8) -> torch.UntypedStorage:
    return torch.UntypedStorage(size_bytes)


def test_what_is_released_is_told_once_and_in_order() -> None:
    told: list[str] = []
    live: LiveStorages[str] = LiveStorages(told.append)
    first, second = storage(), storage()
    live.put(first, "first")
    live.put(second, "second")
    assert len(list(live)) == 2
    address = second._cdata
    del first, second
    assert told == [], "nothing runs where a storage dies"
    assert address not in live
    assert told == ["first", "second"]
    live.drain()
    assert len(told) == 2


def test_an_address_that_is_used_again_is_another_storage() -> None:
    told: list[int] = []
    live: LiveStorages[int] = LiveStorages(told.append)
    for number in range(200):
        one = storage()
        live.put(one, number)
        assert live.get(one._cdata) == number
        del one
    live.drain()
    assert told == list(range(200))


def test_a_record_that_is_dropped_holds_nothing() -> None:
    told: list[str] = []
    live: LiveStorages[str] = LiveStorages(told.append)
    one = storage()
    live.put(one, "one")
    del live
    del one
    assert told == []


def test_an_interrupt_while_draining_leaves_nothing_counted() -> None:
    interrupts = [KeyboardInterrupt(), None]
    told: list[str] = []

    def on_release(note: str) -> None:
        told.append(note)
        interrupt = interrupts.pop(0)
        if interrupt is not None:
            raise interrupt

    live: LiveStorages[str] = LiveStorages(on_release)
    first, second = storage(), storage()
    live.put(first, "first")
    live.put(second, "second")
    del first, second
    with pytest.raises(KeyboardInterrupt):
        live.drain()
    assert list(live) == []
    assert told == ["first", "second"]
