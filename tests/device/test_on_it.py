"""What runs on the asynchronous device runs in processes of its own; see `tests.device`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import ROOT

PLUGINS = ("-p", "no:cacheprovider", "-p", "tests.device.on_it_plugin")
FILES = sorted(p.name for p in (Path(__file__).parent / "on_it").glob("[!_]*.py"))


@pytest.mark.parametrize("name", FILES)
def test_on_the_device(name: str) -> None:
    path = Path(__file__).parent / "on_it" / name
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", *PLUGINS, str(path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
