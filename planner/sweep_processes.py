"""The processes of a sweep: points are planned side by side, and all processes end with the sweep.

[Note: ending a sweep]
An interrupt from the terminal is meant for this process alone, which ends the others: they begin
with interrupts blocked. Each leads a process group of its own, so that what it started itself (CBC
is a program) ends with it. One whose parent was killed ends its own group.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess

from planner.sweep import SweepPoint, SweepRow, SweepSettings, solve_point
from profiles.errors import SolverError
from profiles.profile import Profile


def solve_points(
    profile: Profile,
    points: Sequence[SweepPoint],
    settings: SweepSettings,
    *,
    processes: int,
) -> Generator[tuple[int, SweepRow], None, None]:
    """Plans for every point.

    Args:
        profile: The step.
        points: What to plan for.
        settings: What to plan with.
        processes: How many points are planned at once.

    Yields:
        A point's position and its row, in order of completion. However the iteration ends, so do
        the processes; close it, as with `contextlib.closing`, if it may end early.

    Raises:
        SolverError: The solver is missing or failed, or a process was killed.
    """
    with _pool(min(processes, len(points)), profile) as pool:
        # Processes start as points are submitted.
        with _interrupts_blocked():
            positions = {
                pool.submit(_solve_given, point, settings): position
                for position, point in enumerate(points)
            }
        for done in as_completed(positions):
            try:
                yield positions[done], done.result()
            except BrokenProcessPool as error:
                raise SolverError(
                    "a process of the sweep was killed, likely for want of memory. Try fewer "
                    "--processes."
                ) from error


@contextmanager
def _pool(processes: int, profile: Profile) -> Iterator[ProcessPoolExecutor]:
    """Makes processes that end with the block: at once, if it is left early."""
    before = set(multiprocessing.active_children())
    # Fork would copy the threads' locks of whatever runs here, in any state.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=_begin, initargs=(profile,))
    try:
        yield pool
    except BaseException:
        for process in set(multiprocessing.active_children()) - before:
            _kill(process)
        raise
    finally:
        # The pool's own thread collects the dead; nobody else may.
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Holds interrupts back from this thread; a process started in it never gets one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_given: Profile | None = None
"""What every point of a process is about: sent once, as it is megabytes of ops."""


def _begin(profile: Profile) -> None:
    """Runs first in each process (see [Note: ending a sweep])."""
    global _given
    _given = profile
    os.setpgid(0, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _solve_given(point: SweepPoint, settings: SweepSettings) -> SweepRow:
    assert _given is not None
    return solve_point(_given, point, settings)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _kill(process: BaseProcess) -> None:
    assert process.pid is not None
    # One that has not begun leads no group yet.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
