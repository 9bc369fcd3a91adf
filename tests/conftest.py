"""Settings of every test: hypothesis draws the same examples on every run;
those marked `gpu` run only where there is one.

[Note: time in tests] No test may depend on how fast the machine is, or on its pausing for seconds:
what is asserted is structure, counts, bytes, simulated time, or time on a clock that the test
itself moves (`tests.support.training.fake_time`). Limits of time end what would hang, and leave
room for a machine many times slower. `--scale-times` records as such machines would.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

from profiles.hooks.mode_stack import call_modes, leave_calls, leave_ops, op_modes
from profiles.schema.profile_file import write_profile
from tests.support.loops.table import table_of
from tests.support.planning.toys import sandwich
from tests.support.training.modes import modes_on
from tests.support.training.scaled_times import scale_times

# However slow the machine is, neither an example nor drawing one is too slow.
settings.register_profile(
    "patient", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
# A search for new counterexamples is asked for: HYPOTHESIS_PROFILE=explore.
patient = settings.get_profile("patient")
settings.register_profile("same", patient, derandomize=True)
settings.register_profile("explore", patient, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))
# Hypothesis also draws constants that it reads in the modules loaded so far: with them the examples
# would depend on which tests run beside one, and on every constant of the project.
if hasattr(providers, "_get_local_constants"):
    providers._get_local_constants = lambda: providers._local_constants


# What is printed is the same whatever the terminal or the runner is that the tests were started in,
# in this process and in those that tests start.
for variable in (
    *("COLUMNS", "LINES", "TERMINAL_WIDTH", "FORCE_COLOR", "NO_COLOR", "PY_COLORS"),
    *("TTY_COMPATIBLE", "TTY_INTERACTIVE", "GITHUB_ACTIONS"),
):
    os.environ.pop(variable, None)

# Threads of one op that wait for each other make small ops slow wherever cores are shared, and
# the lanes need a core of their own. So it is in the processes that tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--scale-times",
        metavar="SEED",
        type=int,
        help="multiply what recording on the CPU measures, op by op and slot by slot, each by a "
        "random factor from 0.25 to 4: no test may notice",
    )


@pytest.fixture
def wide_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what stands in a row: none is folded or cut into two tables."""
    monkeypatch.setattr("planner.cli.output.PIPED_WIDTH", 240)


@pytest.fixture(scope="session", autouse=True)
def _scaled_times(request: pytest.FixtureRequest) -> Iterator[None]:
    seed = request.config.getoption("--scale-times")
    with pytest.MonkeyPatch.context() as patch:
        if seed is not None:
            scale_times(seed, patch)
        yield


TESTS = Path(__file__).parent
LONGEST_FIRST = (
    "device/test_on_it.py",
    "profiles/estimating/test_estimate.py",
    "runtime/recompute/test_trainings.py",
    "runtime/storage/test_memory_curve.py",
    "runtime/training/test_loops.py",
    "runtime/training/test_within.py",
    "profiles/hooks/test_optimizer_updates.py",
    "gpu/test_on_cpu.py",
    "planner/test_properties.py",
    "cli/test_readme.py",
    "profiles/estimating/test_estimate_models.py",
    "planner/studies/test_limits.py",
    "runtime/beyond_capacity/test_online_swap.py",
    "notebooks/test_notebooks.py",
    "runtime/replay/test_replay.py",
    "runtime/replay/test_periodic_replay.py",
    "runtime/beyond_capacity/test_record.py",
    "profiles/library/test_library.py",
    "runtime/replay/test_workers.py",
    "runtime/proof/test_workers.py",
    "notebooks/test_paper.py",
    "cli/test_broken_input.py",
    "planner/test_recompute.py",
    "runtime/training/test_agreement.py",
)
"""Files of 20 s and more: begun last, one of them would keep one process busy alone."""


def pytest_configure(config: pytest.Config) -> None:
    # With `--dist loadfile` xdist would begin with files of many tests, and long tests are few.
    config.option.loadscopereorder = False


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows what came of the training loops of real packages."""
    lines = table_of(terminalreporter.stats.get("passed", ()))
    if lines:
        terminalreporter.section("training loops within a budget, two runs each, measured")
        terminalreporter.write("\n".join((*lines, "")))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Has collecting garbage look at what tests make, and not at all the libraries they use."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Has processes that share tests begin with the longest files; skips what needs a GPU that is
    not there."""
    if hasattr(config, "workerinput"):
        order = {TESTS / name: number for number, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: order.get(item.path, len(order)))
    if torch.cuda.is_available():
        return
    no_gpu = pytest.mark.skip(reason="there is no GPU")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(no_gpu)


@pytest.fixture
def profile_file(tmp_path: Path) -> Path:
    """The profile of the sandwich, in a folder of the test's own."""
    path = tmp_path / "toy.profile.json.gz"
    write_profile(sandwich(), path)
    return path


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Some trainings and measurements set another number for the whole process."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_mode_is_left() -> Iterator[None]:
    """A mode that stays on torch's stacks would make another test fail, or pass."""
    defaults = len(call_modes()) - len(modes_on())
    yield
    asked = torch._C._is_torch_function_enabled()
    states: Any = torch._C
    states._set_torch_function_state(states._TorchFunctionState.ENABLED)
    assert asked, "no mode and no subclass is asked any more"
    left = modes_on()
    for mode in op_modes():
        leave_ops(mode)
    for call_mode in call_modes()[defaults:]:
        leave_calls(call_mode)
    assert left == ()
    assert len(call_modes()) == defaults, "a default device stays or is gone"
