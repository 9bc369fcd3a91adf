"""Commands of this project, here or in processes of their own that cannot hang a test."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from planner.plan.plan import Plan
from planner.plan.plan_file import read_plan
from runtime.cli import main

ROOT = Path(__file__).parents[2]
PATIENCE_S = 600
"""More than anything here takes, however slow the machine."""

PLAN = """
import signal
import sys
from runtime.cli import main

# Where tests run in the background the shell has it ignored, and whatever they start inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""

TRAINING = """
import torch

def train(width="64"):
    torch.manual_seed(0)
    layers = [torch.nn.Linear(int(width), int(width)) for _ in range(4)]
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batch = torch.randn(128, int(width))
    def step():
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()
    return model, optimizer, step
"""
"""A user's script."""


def solved(profile_file: Path, *options: str) -> Plan:
    """What `plan solve` writes beside a profile."""
    output = profile_file.with_name("toy.plan.json")
    assert main(["solve", str(profile_file), "-o", str(output), *options]) == 0
    return read_plan(output)


@contextmanager
def running(*words: str | Path, prepare: str = "") -> Iterator["subprocess.Popen[str]"]:
    """`plan` with these words, in a session of its own, which ends with the block at the latest.

    Args:
        words: The command and its arguments.
        prepare: Python that is run before it.
    """
    with subprocess.Popen(
        [sys.executable, "-c", prepare + PLAN, *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        # Whoever reads what a killed process prints finds its end.
        patience = threading.Timer(PATIENCE_S, os.killpg, (process.pid, signal.SIGKILL))
        patience.start()
        try:
            yield process
        finally:
            patience.cancel()
            process.kill()


def python(code: str, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Runs Python to its end, which is an error if it is one there, unless the test checks it."""
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=check,
    )
