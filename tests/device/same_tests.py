"""The tests of the emulated accelerator on the asynchronous device.

`python -m tests.device.same_tests [FILE ...]` runs the same functions: the device is torch's
default, and what is marked `cpu_only` is left out (see `tests.device.on_it_plugin`). It takes half
an hour. Each file runs in a process of its own: a budget is of all that its process holds. Exit
code 1 if one fails. `tests.device.test_on_it` runs a few of them with all other tests.
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.commands import ROOT

PLUGINS = ("-p", "no:cacheprovider", "-p", "tests.device.on_it_plugin")
LEFT_OUT = {
    "runtime/beyond_capacity/test_online_swap.py": "toys of the emulated accelerator's bytes",
    "runtime/host": "host memory",
    "runtime/kernels": "kernels of CUDA",
    "runtime/lanes": "lanes by fakes, and the emulated one",
    "runtime/proof/test_workers.py": "starts its own processes; on_it/workers.py is for these",
    "runtime/replay/test_copy_methods.py": "carriers by fakes",
    "runtime/replay/test_workers.py": "starts its own processes; on_it/workers.py is for these",
    "runtime/replay/test_workers_profile.py": "groups of the host",
    "runtime/storage": "bytes as the emulated accelerator counts them",
}
"""Under `tests`, with the reason."""
FOLDERS = ("runtime", "profiles/recording")


def files() -> list[Path]:
    """Returns the files with tests that say something of any accelerator."""
    tests = ROOT / "tests"
    left_out = [tests / name for name in LEFT_OUT]
    found = sorted(path for name in FOLDERS for path in (tests / name).rglob("test_*.py"))
    return [path for path in found if not any(path.is_relative_to(out) for out in left_out)]


def run(*tests: str) -> subprocess.CompletedProcess[str]:
    """Runs tests on the device, in a process of their own."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", *PLUGINS, *tests],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def main(words: Sequence[str]) -> int:
    """Runs some or all of the files, and prints what became of each."""
    failed = 0
    for path in map(Path, words) if words else files():
        done = run(str(path))
        wrong = re.findall(r"^(?:FAILED|ERROR) .*$", done.stdout, re.MULTILINE)
        print("|", path.absolute().relative_to(ROOT), "|", _last_line(done), "|", flush=True)
        print(*wrong, sep="\n", end="\n" if wrong else "", flush=True)
        # Where nothing is left to run pytest says 5.
        failed += done.returncode not in (0, 5)
    return 1 if failed else 0


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stdout + done.stderr).strip().splitlines()
    return re.sub(r" in [0-9.]+s.*", "", lines[-1]) if lines else "nothing was printed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
