"""Bytes that a step needs with nothing moved."""

from profiles.schema.memory import Moment, bytes_at, ops_of_slots, peak_moment, slot_memory
from profiles.schema.profile import StorageKind
from tests.support.planning.toys import activation, resident, toy


def test_the_peak_and_where_it_is() -> None:
    storages = [activation("pack:0", 8, 0, 2), resident("parameter:w", 4, 0, 2)]
    profile = toy(10, 10, 10, storages=storages, ops=[1, 0, 2], overheads_bytes=[1, 5, 0, 0])
    assert [slot.resident_bytes for slot in slot_memory(profile)] == [13, 17, 12, 4]
    assert profile.peak_bytes == 17
    assert peak_moment(profile) == Moment(1, None)
    assert ops_of_slots(profile) == (range(1), range(1, 1), range(1, 3), range(3, 3))
    moments = [Moment(0, None), Moment(0, 0), Moment(3, None)]
    assert bytes_at(profile, moments) == (4, 12, 4)
    assert bytes_at(profile, moments, StorageKind.ACTIVATION) == (0, 8, 0)


def test_a_copy_has_a_peak_of_its_own() -> None:
    profile = toy(10, 10, storages=[resident("parameter:w", 4, 0, 1)])
    assert profile.peak_bytes == 4
    copied = profile.model_copy(update={"storages": ()})
    assert copied.peak_bytes == 0
    assert profile == toy(10, 10, storages=[resident("parameter:w", 4, 0, 1)])
