"""Says from the log of the asynchronous device which two accesses to memory nothing orders.

The log has what the host did, in the order of the program. What happens before what follows from
it: work of one stream in its order; what a stream was given before an event was recorded, before
what another is given after it waits for that event; what the host waited for, before all that it
does then. Two accesses to the same bytes, one of them a write, that are ordered by none of these
may run in either order on a real device, whatever they did this time. Freed memory is written by
its own stream, so a use behind its end is such a pair, too (vector clocks, as in Flanagan and
Freund, "FastTrack", 2009).
"""

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

VectorClock = dict[int, int]
HOST = -1


class Entry(NamedTuple):
    """What the host did; see `source/streams.h`."""

    kind: str
    stream: int
    name: str
    accesses: tuple[tuple[int, int, bool], ...]
    event: int
    version: int


class Race(NamedTuple):
    """Two accesses that nothing orders, in the order of the program."""

    first: Entry
    second: Entry

    def __str__(self) -> str:
        one, other = (f"{e.name} on stream {e.stream}" for e in self)
        return f"{one} and {other} touch the same bytes, and nothing orders them"


class _Use(NamedTuple):
    stream: int
    time: int
    entry: Entry


@dataclass
class _Bytes:
    """A stretch of memory that every access touches as a whole or not at all."""

    write: _Use | None = None
    reads: dict[int, _Use] = field(default_factory=dict)


def races(log: Iterable[Entry]) -> list[Race]:
    """Returns the pairs of accesses that nothing orders; each pair of names once."""
    entries = list(log)
    edges = sorted(
        {edge for e in entries for at, size, _ in e.accesses for edge in (at, at + size)}
    )
    stretches = [_Bytes() for _ in edges]
    clocks = _Clocks()
    found: dict[tuple[str, str, int, int], Race] = {}
    for entry in entries:
        clock = clocks.after(entry)
        if entry.kind != "work":
            continue
        use = _Use(entry.stream, clock[entry.stream], entry)
        for at, size_bytes, writes in entry.accesses:
            for stretch in stretches[bisect_left(edges, at) : bisect_left(edges, at + size_bytes)]:
                for earlier in _unordered(stretch, use, clock, writes=writes):
                    first = earlier.entry
                    key = first.name, entry.name, first.stream, entry.stream
                    found.setdefault(key, Race(first, entry))
                _note(stretch, use, writes=writes)
    return list(found.values())


def beside(log: Iterable[Entry]) -> list[tuple[Entry, Entry]]:
    """Returns the copies across the link, each with an op that nothing orders: that may run beside
    it."""
    clocks = _Clocks()
    works = [(e, dict(clock)) for e in log if (clock := clocks.after(e)) and e.kind == "work"]
    ops = [(op, clock) for op, clock in works if op.name.startswith("aten::")]
    return [
        (copy, op)
        for copy, at_copy in works
        for op, at_op in ops
        if copy.name.startswith("copy to")
        and at_op.get(copy.stream, 0) < at_copy[copy.stream]
        and at_copy.get(op.stream, 0) < at_op[op.stream]
    ]


class _Clocks:
    """What each stream, and the host, comes after."""

    def __init__(self) -> None:
        self._of: dict[int, VectorClock] = {HOST: {}}
        self._recorded: dict[tuple[int, int], VectorClock] = {}

    def after(self, entry: Entry) -> VectorClock:
        """Takes an entry into account; returns the clock of its stream then."""
        if entry.kind == "host waits for event":
            _join(self._of[HOST], self._recorded.get((entry.event, entry.version), {}))
            return self._of[HOST]
        clock = self._of.setdefault(entry.stream, {})
        if entry.kind == "host waits for stream":
            _join(self._of[HOST], clock)
            return clock
        _join(clock, self._of[HOST])
        clock[entry.stream] = clock.get(entry.stream, 0) + 1
        if entry.kind == "record":
            self._recorded[entry.event, entry.version] = dict(clock)
        elif entry.kind == "wait":
            _join(clock, self._recorded.get((entry.event, entry.version), {}))
        return clock


def _join(clock: VectorClock, other: VectorClock) -> None:
    for stream, time in other.items():
        clock[stream] = max(clock.get(stream, 0), time)


def _unordered(stretch: _Bytes, use: _Use, clock: VectorClock, *, writes: bool) -> list[_Use]:
    earlier = [] if stretch.write is None else [stretch.write]
    if writes:
        earlier += stretch.reads.values()
    return [one for one in earlier if clock.get(one.stream, 0) < one.time]


def _note(stretch: _Bytes, use: _Use, *, writes: bool) -> None:
    if writes:
        stretch.write = use
        stretch.reads.clear()
    else:
        stretch.reads[use.stream] = use
