"""The checker of the device's log, on logs written by hand."""

import pytest

from tests.device.races import HOST, Entry, beside, races

COMPUTE, LANE = 0, 1
BYTES = (1000, 64)


def work(stream: int, name: str, *, writes: bool, at: tuple[int, int] = BYTES) -> Entry:
    return Entry("work", stream, name, ((*at, writes),), -1, -1)


def record(stream: int, event: int, version: int = 1) -> Entry:
    return Entry("record", stream, "", (), event, version)


def wait(stream: int, event: int, version: int = 1) -> Entry:
    return Entry("wait", stream, "", (), event, version)


WRITTEN = work(COMPUTE, "add", writes=True)
COPIED = work(LANE, "copy to host", writes=False)
FREED = work(COMPUTE, "free", writes=True)

ORDERED = {
    "one stream": [WRITTEN, work(COMPUTE, "mul", writes=False)],
    "two reads": [work(COMPUTE, "mul", writes=False), COPIED],
    "other bytes": [WRITTEN, work(LANE, "copy", writes=True, at=(1064, 64))],
    "an event": [WRITTEN, record(COMPUTE, 7), wait(LANE, 7), COPIED],
    "there and back": [
        *(WRITTEN, record(COMPUTE, 7), wait(LANE, 7), COPIED),
        *(record(LANE, 8), wait(COMPUTE, 8), FREED),
    ],
    "through a third": [
        *(WRITTEN, record(COMPUTE, 7), wait(2, 7), record(2, 8), wait(LANE, 8), COPIED),
    ],
    "the host waits for the stream": [
        *(WRITTEN, Entry("host waits for stream", COMPUTE, "", (), -1, -1), COPIED),
    ],
    "the host waits for the event": [
        *(WRITTEN, record(COMPUTE, 7), Entry("host waits for event", -1, "", (), 7, 1), COPIED),
    ],
}

UNORDERED = {
    "host memory that is freed under a copy": (
        [COPIED, work(HOST, "free host memory", writes=True)],
        *("copy to host", "free host memory"),
    ),
    "no event": ([WRITTEN, COPIED], "add", "copy to host"),
    "the event comes too early": (
        [record(COMPUTE, 7), WRITTEN, wait(LANE, 7), COPIED],
        *("add", "copy to host"),
    ),
    "an earlier version of the event": (
        [record(COMPUTE, 7, 1), WRITTEN, record(COMPUTE, 7, 2), wait(LANE, 7, 1), COPIED],
        *("add", "copy to host"),
    ),
    "freed under a copy": (
        [WRITTEN, record(COMPUTE, 7), wait(LANE, 7), COPIED, FREED],
        *("copy to host", "free"),
    ),
    "some of the bytes": (
        [WRITTEN, work(LANE, "copy", writes=False, at=(1060, 100))],
        *("add", "copy"),
    ),
    "a read that another stream's read has not hidden": (
        [
            *(work(2, "mul", writes=False), COPIED),
            *(record(LANE, 8), wait(COMPUTE, 8), FREED),
        ],
        *("mul", "free"),
    ),
}


@pytest.mark.parametrize("name", ORDERED)
def test_what_is_ordered_is_no_race(name: str) -> None:
    assert races(ORDERED[name]) == []


@pytest.mark.parametrize("name", UNORDERED)
def test_what_nothing_orders_is_named(name: str) -> None:
    log, first, second = UNORDERED[name]
    (race,) = races(log)
    assert (race.first.name, race.second.name) == (first, second)
    assert f"{first} on stream" in str(race)


def test_an_op_is_beside_a_copy_that_nothing_orders_with_it() -> None:
    before, meanwhile, after = (
        work(COMPUTE, f"aten::{name}", writes=False, at=(2000, 64))
        for name in ("add", "mul", "div")
    )
    log = [
        *(before, record(COMPUTE, 7), wait(LANE, 7), COPIED, record(LANE, 8), meanwhile),
        *(wait(COMPUTE, 8), after),
    ]
    assert beside(log) == [(COPIED, meanwhile)]
