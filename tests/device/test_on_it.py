"""What runs on the asynchronous device runs in a process of its own; see `tests.device`."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.commands import ROOT

PLUGINS = ("-p", "no:cacheprovider", "-p", "tests.device.on_it_plugin")
LAST = "mutations.py"
"""What has been broken may leave anything behind."""


def test_on_the_device() -> None:
    folder = Path(__file__).parent / "on_it"
    files = sorted(folder.glob("[!_]*.py"), key=lambda path: (path.name == LAST, path.name))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", *PLUGINS, *map(str, files)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
