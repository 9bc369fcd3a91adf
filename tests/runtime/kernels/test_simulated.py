"""The second of three executions of the kernels' source: the CUDA simulator.

The simulator takes the place of CUDA in the whole process, so its tests have one of their own.
"""

import os
import re
import subprocess
import sys

from tests.support.commands import PATIENCE_S, ROOT

CASES = ROOT / "tests" / "support" / "kernels" / "simulator_cases.py"


def test_kernels_in_the_simulator() -> None:
    """Every access in bounds and aligned, every byte written once, every planted fault found."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)],
        cwd=ROOT,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"\d+ passed in .*", summary), summary
