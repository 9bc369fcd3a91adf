"""A sweep: one step planned for many budgets, links and numbers of workers, side by side.

[Note: ending a sweep]
All processes end with the sweep. An interrupt from the terminal is meant for this process alone,
which ends the others: they begin with interrupts blocked. Each leads a process group of its own, so
that what it started itself (CBC is a program) ends with it. One whose parent was killed ends its
own group.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from itertools import product
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from planner.ilp.deadline import SolverName
from planner.plan.plan import BoundSource, Plan, Proof, Without
from planner.problem.settings import WITHOUT_BY_DEFAULT
from planner.solving import solve
from profiles.schema.errors import BudgetError, SolverError
from profiles.schema.profile import Link, Profile

if TYPE_CHECKING:
    import pandas as pd


class SweepOutcome(StrEnum):
    """What became of one point."""

    PLANNED = "planned"
    FITS = "fits as it is"
    UNMET = "cannot be met"


@dataclass(frozen=True, kw_only=True)
class LinkChoice:
    """A link to plan for, by its name as one worker alone sees it, and how many workers share it.

    Attributes:
        link: What is left of it for each.
        all_reduce_on_link: Whether that is less what summing their gradients takes.
        host_budget_bytes: Host bytes for each; None for no limit.
    """

    name: str
    workers: int
    link: Link
    all_reduce_on_link: bool = False
    host_budget_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """What one plan is made for."""

    choice: LinkChoice
    budget_bytes: int


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """What all plans of a sweep are made with; see `planner.solving.solve`."""

    solver: SolverName = SolverName.HIGHS
    time_limit_s: float = 60.0
    min_size_bytes: int | None = None
    without: Without = WITHOUT_BY_DEFAULT


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One point and its plan's certificate. Without a plan, its figures are None.

    Attributes:
        link: The link's name as one worker alone sees it.
        workers: How many share it.
        all_reduce_on_link: Whether they sum their gradients over it.
        d2h_bytes_per_us: Rate to the host that is left for each.
        h2d_bytes_per_us: Rate from the host that is left for each.
        both_bytes_per_us: Rate of both together; None if neither direction slows the other.
        smallest_budget_bytes: The smallest budget that can be met, where this one cannot.
        compute_us: Step time with nothing moved, from the profile.
        recompute_us: Of it, what is run again.
        stall_us: Of it, what compute waits.
        step_us: Step time under the plan, simulated.
        bound_step_us: Step time no plan can be below.
        bound_source: Why not.
        gap: How far the plan may be from the best, as a share of the best step time.
        peak_bytes: Peak under the plan, simulated.
        d2h_bytes: Bytes copied to the host per step.
        h2d_bytes: Bytes copied back per step.
        host_pool_bytes: Host bytes of one worker.
        proof: What the solver proved about its model.
        solve_seconds: Wall time of planning, beside whatever else ran.
    """

    link: str
    workers: int
    all_reduce_on_link: bool
    d2h_bytes_per_us: float
    h2d_bytes_per_us: float
    both_bytes_per_us: float | None
    budget_bytes: int
    outcome: SweepOutcome
    smallest_budget_bytes: int | None = None
    compute_us: float
    recompute_us: float | None = None
    stall_us: float | None = None
    step_us: float | None = None
    bound_step_us: float | None = None
    bound_source: BoundSource | None = None
    gap: float | None = None
    peak_bytes: int | None = None
    d2h_bytes: int | None = None
    h2d_bytes: int | None = None
    host_pool_bytes: int | None = None
    proof: Proof | None = None
    solve_seconds: float | None = None


def sweep_points(
    choices: Sequence[LinkChoice], budgets_bytes: Sequence[int]
) -> tuple[SweepPoint, ...]:
    """Returns every combination: link by link, budget by budget, in the order given."""
    pairs = product(choices, budgets_bytes)
    return tuple(SweepPoint(choice=choice, budget_bytes=size) for choice, size in pairs)


def solve_point(profile: Profile, point: SweepPoint, settings: SweepSettings) -> SweepRow:
    """Plans for one point.

    Raises:
        SolverError: The solver is missing or failed.
    """
    choice = point.choice
    figures: dict[str, Any]
    try:
        plan = solve(
            profile,
            budget_bytes=point.budget_bytes,
            link=choice.link,
            host_budget_bytes=choice.host_budget_bytes,
            **asdict(settings),
        )
    except BudgetError as error:
        smallest_bytes = error.smallest_budget_bytes
        figures = {"outcome": SweepOutcome.UNMET, "smallest_budget_bytes": smallest_bytes}
    else:
        figures = _figures(plan)
    return SweepRow(
        link=choice.name,
        workers=choice.workers,
        all_reduce_on_link=choice.all_reduce_on_link,
        d2h_bytes_per_us=choice.link.d2h_bytes_per_us,
        h2d_bytes_per_us=choice.link.h2d_bytes_per_us,
        both_bytes_per_us=choice.link.both_bytes_per_us,
        budget_bytes=point.budget_bytes,
        compute_us=profile.step_us,
        **figures,
    )


def _figures(plan: Plan) -> dict[str, Any]:
    """What a row has only with a plan."""
    about = plan.certificate
    same = ("bound_source", "peak_bytes", "d2h_bytes", "h2d_bytes", "proof", "solve_seconds")
    return {
        "outcome": SweepOutcome.PLANNED if plan.swaps or plan.rebuilds else SweepOutcome.FITS,
        "recompute_us": about.recompute_us,
        "stall_us": about.simulated_stall_us,
        "step_us": about.simulated_step_us,
        "bound_step_us": about.compute_us + about.bound_beyond_us,
        "gap": about.optimality_gap,
        "host_pool_bytes": plan.host_pool_bytes,
        **{name: getattr(about, name) for name in same},
    }


def sweep_table(rows: Iterable[SweepRow]) -> "pd.DataFrame":
    """Returns one row per point, in the order given; columns are the fields of `SweepRow`.

    What a point lacks is NA.
    """
    import pandas as pd

    columns = [field.name for field in fields(SweepRow)]
    table = pd.DataFrame([asdict(row) for row in rows], columns=columns)
    whole = [name for name in columns if name.endswith("_bytes")]
    return table.astype(dict.fromkeys(whole, "Int64"))


def solve_points(
    profile: Profile, points: Sequence[SweepPoint], settings: SweepSettings, *, processes: int
) -> Generator[tuple[int, SweepRow], None, None]:
    """Plans for every point, so many processes at once.

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
        # The pool's own thread collects the dead, and must be the only one to.
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Holds interrupts back from this thread; a process started in it never gets one."""
    held: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    # Another thread may get the signal, and Python would then interrupt the main thread all the
    # same: in the middle of starting a process, which would be left without its orders.
    defers = callable(handler) and threading.current_thread() is threading.main_thread()
    if defers:
        signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if defers:
            signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


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
