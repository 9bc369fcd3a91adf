"""What only a GPU can show, in one command and one folder: `make gpu-check`.

    python -m tests.gpu.check

1. `tests.xml`: the tests marked `gpu`: kernels exact, streams in order with widened races, the
   recorder and the link on the device.
2. `kernels.json` and `kernels.md`: rates of the kernels against the copy engine, by size and grid.
3. `training.json` and `training.md`: built-in workloads, bit-equal with and without a plan, peaks
   against the budget that the device enforces, and the simulated against the measured step.

Exit code 0 if all passed, 1 if not, 0 with one line where there is no GPU.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from profiles.recording.device import device_at_hand
from profiles.schema.profile import CUDA
from profiles.schema.units import size_text, time_text
from tests.benchmarks.bench_kernels import DeviceRate, device_rates
from tests.gpu.bench_device import BenchAccelerator, BenchDevice
from tests.gpu.cases import CHECKED, Case
from tests.gpu.results import ROOT, Results, Table
from tests.gpu.training_check import TrainingCheck, check_training

TIMED_STEPS = 5
COLUMNS = (
    "workload",
    "numbers",
    "fell back",
    "budget",
    "peak",
    "reserved",
    "budget enforced",
    "step without",
    "step",
    "simulated",
    "measured / simulated",
)


def check_all(
    limited: BenchDevice, cases: Sequence[Case], results: Results, timed_steps: int = TIMED_STEPS
) -> bool:
    """Checks the training of some workloads; returns whether all passed."""
    link = limited.link()
    checks: list[TrainingCheck] = []
    for case in cases:
        print(f"{case.title} ...", file=sys.stderr)
        checks.append(check_training(case, limited, link, timed_steps))
        limited.tidy()
        title = f"Training on {limited.describe()['device']} (measured; simulated where it says so)"
        table = Table(title, COLUMNS, [_cells(check) for check in checks])
        # Written after each workload: what an interruption leaves is worth having.
        results.write("training", checks, [table])
    return all(check.passed for check in checks)


def _cells(check: TrainingCheck) -> tuple[str, ...]:
    return (
        check.workload,
        _numbers(check),
        f"{check.fallbacks} of {check.steps}",
        size_text(check.budget_bytes),
        size_text(check.peak_bytes),
        "" if check.reserved_bytes is None else size_text(check.reserved_bytes),
        "yes" if check.enforced else f"no: {check.out_of_memory}",
        time_text(check.step_without_us),
        time_text(check.step_us),
        time_text(check.step_simulated_us),
        f"{check.step_ratio:.3f}",
    )


def _numbers(check: TrainingCheck) -> str:
    if not check.repeats:
        return "differ from run to run without a plan, too"
    if check.losses_equal and check.tensors_equal:
        return f"{check.tensors_compared} tensors bit-equal"
    return "DIFFERENT"


def rates_table(rates: Sequence[DeviceRate]) -> Table:
    """Returns the kernels' rates for readers, each with its best grid."""
    columns = (
        "copy",
        "direction",
        "storages",
        "bytes of each",
        "engine",
        "kernel",
        "grid",
        "ratio",
    )
    return Table("Kernels against the copy engine, GB/s (measured)", columns, [*map(_rate, rates)])


def _rate(rate: DeviceRate) -> tuple[str, ...]:
    grid, kernel_gb_per_s = rate.best()
    return (
        rate.copy,
        rate.direction,
        str(rate.storages),
        str(rate.size_bytes),
        f"{rate.engine_gb_per_s:.2f}",
        f"{kernel_gb_per_s:.2f}",
        grid,
        f"{kernel_gb_per_s / rate.engine_gb_per_s:.2f}",
    )


def run_tests(folder: Path) -> bool:
    """Runs the tests marked `gpu` in a process of their own; returns whether they passed."""
    words = ["-m", "pytest", "-m", "gpu", "-q", "-rs", f"--junitxml={folder / 'tests.xml'}"]
    return subprocess.run([sys.executable, *words]).returncode == 0


def repeatable() -> None:
    """Has torch choose algorithms that give the same bits every time, where it has them."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)


def main() -> int:
    """Checks everything on the GPU at hand."""
    if not torch.cuda.is_available():
        print("There is no GPU here: nothing was checked.")
        return 0
    limited = BenchAccelerator(device_at_hand(CUDA))
    results = Results(limited, ROOT)
    passed = run_tests(results.folder)
    rates = device_rates()
    results.write("kernels", rates, [rates_table(rates)])
    repeatable()
    passed = check_all(limited, CHECKED, results) and passed
    print(f"GPU check: {'passed' if passed else 'FAILED'}; results in {results.folder}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
