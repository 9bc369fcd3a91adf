"""Changed files through readers and commands: no traceback, no hang, little memory.

    python -m tests.benchmarks.fuzz_files --count 10000 --seconds 900

Each file is read; what a reader accepts goes through every command that takes it, and so does one
in twenty of what it refuses. A command may end with a message of one line and exit code 1 or 2.
Each batch runs in a process of its own, whose peak of memory is measured, and which is ended if one
file takes longer than it may. The same seed gives the same files.
"""

import argparse
import contextlib
import io
import json
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, NamedTuple

from planner.solving import solve
from profiles.schema.errors import FileError
from runtime.cli.app import main as run_command
from tests.benchmarks.processes import CrashError, HangError, messages_of
from tests.support.planning.edited_files import (
    PROFILE,
    READ,
    SETS,
    content_of,
    plan_of_it,
    record,
)
from tests.support.planning.file_fuzz import Broken, broken_files

BATCH = 250
LIMIT_S = 10.0
LIMIT_MIB = 500
SOLVED = 8
"""One in so many profiles is planned as well, if it is accepted."""
REFUSED_SHOWN = 20
"""One in so many refused files is given to a command as well."""


class Source(NamedTuple):
    """A sound file.

    Attributes:
        name: For the report.
        kind: Profile or plan, or several of either.
        content: What it holds.
    """

    name: str
    kind: str
    content: Any


class Fault(NamedTuple):
    """Something that must not be.

    Attributes:
        file: Which file: its source, batch and number within it.
        how: What had been changed.
        what: What happened.
    """

    file: str
    how: str
    what: str


class Batch(NamedTuple):
    """What came of some files.

    Attributes:
        outcomes: How often what happened.
        faults: What must not.
        peak_mib: Most memory that the process had.
        slowest_s: Longest time a file took.
    """

    outcomes: Counter[str]
    faults: list[Fault]
    peak_mib: float
    slowest_s: float


def sources() -> list[Source]:
    """A toy and a recorded step, each with its plan."""
    # Only here, so that the processes that read files do not hold torch.
    from tests.support.training.recorded import recorded

    step = recorded("twice_with_neighbour")
    peak_bytes = step.peak_bytes
    plan = solve(step, budget_bytes=peak_bytes * 8 // 10, min_size_bytes=1, time_limit_s=5.0)
    return [
        Source("toy", "profile", content_of(PROFILE)),
        Source("toy", "plan", content_of(plan_of_it())),
        Source("recorded", "profile", content_of(step)),
        Source("recorded", "plan", content_of(plan)),
        *(Source("toy", kind, content_of(record(kind))) for kind in SETS),
    ]


def commands(kind: str, path: Path, sound: Path, folder: Path, *, solves: bool) -> list[list[str]]:
    """Every command that reads a file of a kind and takes no training."""
    if kind == "plans":
        one = f"{path}#2"
        return [
            ["show", str(path)],
            ["check", str(path)],
            ["report", one, "-o", f"{folder}/x.html"],
        ]
    if kind == "plan":
        return [
            ["show", str(path)],
            ["check", str(path)],
            ["diff", str(path), str(sound)],
            ["report", str(path), "-o", str(folder / "x.html")],
            ["trace", str(path), "-o", str(folder / "x.trace.json")],
        ]
    plan = str(folder / f"x.{kind}.plan.json")
    small = ["--time-limit", "0.5", "--min-size", "1"]
    solved = ["solve", str(path), "--budget", "80%", "-o", plan, *small]
    differs = [] if kind == "profiles" else [["diff", str(path), str(sound)]]
    return [["show", str(path)], *differs, *([solved] if solves else [])]


def tried(source: Source, broken: Broken, folder: Path, number: int) -> tuple[str, str | None]:
    """Reads one file and runs commands on it; what came of it, and what must not have."""
    path, sound = folder / "broken.json", folder / "sound.json"
    every = commands(source.kind, path, sound, folder, solves=number % SOLVED == 0)
    path.write_bytes(broken.data)
    try:
        READ[source.kind](path)
    except FileError as error:
        if "\n" in str(error) or not str(error).startswith(f"{path}: ") or "\x1b" in str(error):
            return "refused", f"not one line: {error!r}"
        if number % REFUSED_SHOWN:
            return "refused", None
        chosen = every[:1]
    else:
        chosen = every
    for command in chosen:
        fault = _ended_badly(command)
        if fault is not None:
            return "failed", f"plan {' '.join(command)}: {fault}"
    return ("refused" if len(chosen) == 1 else "accepted"), None


def _ended_badly(command: list[str]) -> str | None:
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = run_command(command)
    if code not in (0, 1, 2):
        return f"exit code {code}"
    if "\x1b" in out.getvalue() + error.getvalue():
        return "an escape reached the terminal"
    return "a traceback" if "Traceback" in error.getvalue() else None


def run_batch(source: Source, seed: int, count: int, results: Connection) -> None:
    """Tries some files, in a process of its own."""
    outcomes: Counter[str] = Counter()
    faults: list[Fault] = []
    slowest_s = 0.0
    signal.signal(signal.SIGALRM, _hang)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sound.json").write_text(json.dumps(source.content))
        for number, broken in enumerate(islice(broken_files(source.content, seed), count)):
            results.send(f"{source.name} {source.kind}, seed {seed}, file {number}: {broken.how}")
            started_s = time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
            try:
                outcome, fault = tried(source, broken, folder, number)
            except BaseException:
                outcome, fault = "failed", traceback.format_exc()
            signal.setitimer(signal.ITIMER_REAL, 0)
            slowest_s = max(slowest_s, time.monotonic() - started_s)
            outcomes[outcome] += 1
            if fault is not None:
                file = f"{source.name} {source.kind}, seed {seed}, file {number}"
                faults.append(Fault(file, broken.how[:300], fault))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    results.send(Batch(outcomes, faults, peak_mib, slowest_s))


def _hang(number: int, frame: FrameType | None) -> None:
    raise HangError(f"more than {LIMIT_S:.0f} s")


def batch_of(source: Source, seed: int, count: int) -> Batch:
    """Runs a batch and watches it: whatever its process does, there is an answer."""
    last = "before the first file"
    try:
        for message in messages_of(run_batch, source, seed, count, limit_s=10 * LIMIT_S):
            if isinstance(message, Batch):
                return message
            last = message
        what = "the process ended without a word"
    except (CrashError, HangError) as error:
        what = str(error)
    return Batch(Counter(failed=1), [Fault(last, "", what)], 0.0, 10 * LIMIT_S)


def batches(count: int, seconds: float, seed: int) -> Iterator[Batch]:
    """Runs batches of all sources in turn until all files, or the time, are used up."""
    given = sources()
    started_s = time.monotonic()
    number = 0
    while number * BATCH < count and time.monotonic() - started_s < seconds:
        source = given[number % len(given)]
        yield batch_of(source, seed + number, min(BATCH, count - number * BATCH))
        number += 1


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what came of the files; 1 if anything did that must not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="how many files")
    parser.add_argument("--seconds", type=float, default=900.0, help="at most so long")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    total: Counter[str] = Counter()
    peak_mib = slowest_s = 0.0
    found = 0
    for batch in batches(options.count, options.seconds, options.seed):
        total += batch.outcomes
        peak_mib, slowest_s = max(peak_mib, batch.peak_mib), max(slowest_s, batch.slowest_s)
        found += len(batch.faults)
        for fault in batch.faults:
            print(f"FAULT {fault.file}: {fault.how}\n{fault.what}", flush=True)
        print(f"{dict(total)}, peak {peak_mib:.0f} MiB, slowest {slowest_s:.1f} s", flush=True)
    return 1 if found or peak_mib > LIMIT_MIB else 0


if __name__ == "__main__":
    sys.exit(main())
