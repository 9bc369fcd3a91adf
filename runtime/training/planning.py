"""Plans a course in a process of its own, while training goes on."""

import os
import subprocess
import sys
from pathlib import Path

MOST_WORDS = 400
"""Characters of a solver's last words that are passed on."""


class Planning:
    """A process that plans one profile."""

    def __init__(self, profile: Path, budget: str, plan: Path, time_limit_s: float) -> None:
        """Starts it: `plan solve`, for a budget as text.

        Args:
            profile: The profile's file.
            budget: What the step may use of the device.
            plan: The file to write.
            time_limit_s: How long it may look for a better plan.
        """
        command = [
            *(sys.executable, "-m", "runtime.cli", "solve", str(profile)),
            *("--budget", budget, "--time-limit", str(time_limit_s), "-o", str(plan)),
        ]
        # Where this package was found, whatever folder the training runs in.
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._words = plan.with_name(f"{plan.name}.log")
        with self._words.open("wb") as words:
            self._process = subprocess.Popen(
                command,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=words,
                # Ctrl-C in a terminal is for the training.
                start_new_session=True,
            )

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def fault(self) -> str | None:
        """Says why there is no plan, once it is over; None if there is one."""
        if self._process.returncode == 0:
            return None
        lines = self._words.read_text(errors="replace").strip().splitlines()
        words = lines[-1].removeprefix("plan: ") if lines else "it said nothing"
        return f"{words[:MOST_WORDS]} (exit code {self._process.returncode})"

    def wait(self) -> None:
        """Blocks until it has ended."""
        self._process.wait()

    def close(self) -> None:
        """Ends it, whatever it has."""
        if not self.is_over:
            self._process.terminate()
        self._process.wait()
        self._words.unlink(missing_ok=True)
