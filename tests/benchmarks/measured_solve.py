"""One solve in a process of its own: what came of it and what it took.

A process of its own, so that its peak of memory is that of the one solve and nothing else, and so
that no solve finds caches warm that an earlier one filled.
"""

import resource
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pulp

from planner.ilp.deadline import Incumbent
from planner.plan.plan import Without
from planner.problem.problem import problem_of
from planner.problem.smallest_size import most_min_size_bytes
from planner.solving import solve
from profiles.hardware.links import link_named
from profiles.library.index import profile_path
from profiles.schema.errors import BudgetError
from profiles.schema.profile import Profile
from profiles.schema.profile_file import read_profile
from tests.support.planning.oracle import idles

KIB = 1024


@dataclass(frozen=True, kw_only=True)
class SolveCase:
    """What is solved.

    Attributes:
        profile: A profile file, or `library:NAME`.
        budget_share: The budget, as a share of the peak with nothing moved.
        link: Name of a link of the table.
        time_limit_s: Handed to `solve`.
        min_size_bytes: Handed to `solve`; its default if None.
        goal_gap: A plan this near to its bound is as good as was asked for.
    """

    profile: str
    budget_share: float
    link: str
    time_limit_s: float
    min_size_bytes: int | None = None
    goal_gap: float = 0.01

    @property
    def label(self) -> str:
        """Names the case, for people and for `--only`."""
        step = Path(self.profile).name.removeprefix("library:").split(".")[0]
        return f"{step}/{self.budget_share:.0%}/{self.link}"


@dataclass(frozen=True, kw_only=True)
class SolveFigures:
    """What came of a solve. Figures of plans are None where the budget cannot be met.

    Attributes:
        case: Its label.
        workload: The built-in workload of the step.
        ops: Ops of the step.
        slots: Slots of the step.
        idle_stretches: Stretches in which a storage large enough to be moved could be away without
            wrapping round the step boundary.
        budget_bytes: The budget.
        seconds: Wall time of `solve` (measured).
        cpu_seconds: Processor time of it, programs it started included (measured): less than
            `seconds` where others use the cores as well.
        goal_seconds: Wall time until a plan and a bound were known that are as near as the goal
            asks (measured); None if that was not before its end.
        lp_seconds: Wall time the solver took for models without binaries (measured).
        models: Models handed to a solver.
        rows: Rows of the largest of them.
        variables: Its variables.
        binaries: How many of those are integer.
        peak_memory_bytes: Most resident bytes of the process (measured).
        start_memory_bytes: The most before `solve` was called (measured).
        smallest_budget_bytes: What could be met instead; None where the budget is met.
        compute_us: Step time with nothing moved (estimated or measured, as the profile says).
        stall_us: Stall under the plan (simulated).
        loose_bound_us: Stall no plan can be below, by the relaxation (bound).
        bound_us: The tightest such bound.
        bound_source: Where the bound comes from.
        gap: From the bound to the simulated stall, as a share of the best step time.
        proof: What the solver proved about its model.
        swaps: Swaps of the plan.
        d2h_bytes: Bytes copied to the host per step.
    """

    case: str
    workload: str
    ops: int
    slots: int
    idle_stretches: int
    budget_bytes: int
    seconds: float
    cpu_seconds: float
    lp_seconds: float
    models: int
    rows: int
    variables: int
    binaries: int
    peak_memory_bytes: int
    start_memory_bytes: int
    smallest_budget_bytes: int | None = None
    compute_us: float | None = None
    stall_us: float | None = None
    loose_bound_us: float | None = None
    bound_us: float | None = None
    bound_source: str | None = None
    gap: float | None = None
    proof: str | None = None
    goal_seconds: float | None = None
    swaps: int | None = None
    d2h_bytes: int | None = None


class ModelSize(NamedTuple):
    """The size of a model as the solver gets it, and the solver's wall time; sorts by rows."""

    rows: int
    variables: int
    binaries: int
    seconds: float


def measured_solves(cases: Iterable[SolveCase], jobs: int = 1) -> Iterator[SolveFigures]:
    """Solves cases in fresh processes and yields what came of them, in the order of the cases."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        yield from pool.map(measured_solve, cases)


def measured_solve(case: SolveCase) -> SolveFigures:
    """Solves a case in this process."""
    profile = read_profile(profile_path(Path(case.profile)))
    peak_bytes = profile.peak_bytes
    budget_bytes = int(case.budget_share * peak_bytes)
    start_memory_bytes = peak_memory_bytes()
    started_s, started_cpu_s = time.perf_counter(), cpu_seconds()
    with watched_models() as sizes:
        outcome = _outcome(profile, budget_bytes, case)
    seconds = time.perf_counter() - started_s
    asked = problem_of(
        profile,
        budget_bytes=budget_bytes,
        link=profile.link,
        min_size_bytes=case.min_size_bytes,
    )
    largest = max(sizes, default=ModelSize(0, 0, 0, 0.0))
    return SolveFigures(
        case=case.label,
        workload=profile.workload.reference,
        ops=len(profile.ops),
        slots=len(profile.slots),
        idle_stretches=idle_stretches(profile, asked.min_size_bytes),
        budget_bytes=budget_bytes,
        seconds=seconds,
        cpu_seconds=cpu_seconds() - started_cpu_s,
        lp_seconds=sum(size.seconds for size in sizes if not size.binaries),
        models=len(sizes),
        rows=largest.rows,
        variables=largest.variables,
        binaries=largest.binaries,
        peak_memory_bytes=peak_memory_bytes(),
        start_memory_bytes=start_memory_bytes,
        **outcome,
    )


def idle_stretches(profile: Profile, min_size_bytes: int | None = None) -> int:
    """Returns how many stretches there are in which a storage could be away within the step.

    Of storages from a size on; if None, from the one from which on they always may move.
    """
    peak_bytes = profile.peak_bytes
    smallest_bytes = min_size_bytes or most_min_size_bytes(peak_bytes)
    return sum(idle.size_bytes >= smallest_bytes for idle in idles(profile))


def _outcome(profile: Profile, budget_bytes: int, case: SolveCase) -> dict[str, Any]:
    """The figures of the plan, by the names of `SolveFigures`."""
    watch = _GoalWatch(case.goal_gap)
    try:
        plan = solve(
            profile,
            budget_bytes=budget_bytes,
            link=link_named(case.link),
            time_limit_s=case.time_limit_s,
            min_size_bytes=case.min_size_bytes,
            without=Without.RECOMPUTE,
            on_incumbent=watch,
        )
    except BudgetError as error:
        return {"smallest_budget_bytes": error.smallest_budget_bytes}
    about = plan.certificate
    return {
        "compute_us": about.compute_us,
        "stall_us": about.simulated_stall_us,
        "loose_bound_us": about.loose_bound_beyond_us,
        "bound_us": about.bound_beyond_us,
        "bound_source": about.bound_source.value,
        "gap": about.optimality_gap,
        "proof": about.proof.value,
        "goal_seconds": watch.seconds,
        "swaps": len(plan.swaps),
        "d2h_bytes": about.d2h_bytes,
    }


class _GoalWatch:
    """Notes when a solve is first as near to its bound as its goal asks."""

    def __init__(self, gap: float) -> None:
        self._gap = gap
        self._started_s = time.perf_counter()
        self.seconds: float | None = None

    def __call__(self, incumbent: Incumbent) -> None:
        if self.seconds is None and incumbent.optimality_gap <= self._gap:
            self.seconds = time.perf_counter() - self._started_s


@contextmanager
def watched_models() -> Iterator[list[ModelSize]]:
    """Notes the size of every model that PuLP solves meanwhile."""
    sizes: list[ModelSize] = []
    solve_program = pulp.LpProblem.solve

    def noting(program: pulp.LpProblem, *args: Any, **options: Any) -> int:
        variables = program.variables()
        integers = sum(variable.cat == pulp.LpInteger for variable in variables)
        rows, started_s = program.numConstraints(), time.perf_counter()
        status = solve_program(program, *args, **options)
        seconds = time.perf_counter() - started_s
        sizes.append(ModelSize(rows, len(variables), integers, seconds))
        return status

    pulp.LpProblem.solve = noting
    try:
        yield sizes
    finally:
        pulp.LpProblem.solve = solve_program


def cpu_seconds() -> float:
    """Processor time of this process and of those that it has waited for."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, whose))


def peak_memory_bytes() -> int:
    """The most resident bytes of this process so far; 0 where the system does not say.

    Not `ru_maxrss`: a process begins with that of the one that started it.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * KIB for line in lines if line.startswith("VmHWM:"))
