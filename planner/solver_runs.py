"""One run of each solver: how PuLP starts it, what ends it early, and the bound it leaves."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import highspy
import pulp

from planner.stop import Limits
from profiles.errors import SolverError


class Run(Protocol):
    """A solver set up for one model."""

    solver: pulp.LpSolver

    def bound(self, program: pulp.LpProblem) -> float:
        """Returns what no solution is below, after the run; minus infinity if nothing is known."""


class Highs:
    """HiGHS, in this process; asked for an early end while it runs.

    Args:
        settings: Of every solver.
        limits: When to stop.
        enough: A bound this high ends the run.
    """

    def __init__(self, settings: Mapping[str, Any], limits: Limits, enough: float) -> None:
        self._limits = limits
        self._enough = enough
        kinds = highspy.cb.HighsCallbackType
        self.solver = pulp.HiGHS(
            callbackTuple=(self._asked, None),
            callbacksToActivate=[kinds.kCallbackMipInterrupt, kinds.kCallbackSimplexInterrupt],
            **settings,
        )

    def _asked(self, kind: Any, message: str, out: Any, back: Any, _: Any) -> None:
        in_tree = kind == highspy.cb.HighsCallbackType.kCallbackMipInterrupt
        enough = in_tree and out.mip_dual_bound >= self._enough
        back.user_interrupt = enough or self._limits.stop()

    def bound(self, program: pulp.LpProblem) -> float:
        """Returns the bound of the tree that is left."""
        highs = program.solverModel
        return -math.inf if highs is None else float(highs.getInfo().mip_dual_bound)


class Cbc:
    """CBC, in a process of its own; its bound stands in its log alone.

    Args:
        settings: Of every solver.

    Raises:
        SolverError: There is no folder for its files.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        try:
            self._folder = TemporaryDirectory(prefix="swapplan-cbc-")
        except OSError as error:
            raise SolverError(
                f"cbc needs a folder for temporary files ({error.strerror or error}). Set TMPDIR "
                "to one that can be written, or use --solver highs."
            ) from error
        if any(letter.isspace() for letter in self._folder.name):
            self._folder.cleanup()
            raise SolverError(
                f"cbc cannot read files in a folder with a space in its name, and TMPDIR is "
                f"{str(Path(self._folder.name).parent)!r}. Set TMPDIR to another one, or use "
                "--solver highs."
            )
        self._log = Path(self._folder.name) / "cbc.log"
        # PuLP's own class for its CBC warns that it will go; this is the same program.
        self.solver = pulp.COIN_CMD(
            path=pulp.PULP_CBC_CMD.pulp_cbc_path, logPath=str(self._log), **settings
        )
        # Whatever ends the run, its files go with the folder.
        self.solver.tmpDir = self._folder.name

    def bound(self, program: pulp.LpProblem) -> float:
        """Returns the bound that CBC reports; its objective if that is optimal."""
        text = self._log.read_text()
        self._folder.cleanup()
        found = re.findall(r"^(?:Lower bound|best possible):\s+(\S+)", text, re.MULTILINE)
        if found:
            return float(found[-1])
        solved = re.search(r"^Result - Optimal solution found$", text, re.MULTILINE)
        value = re.search(r"^Objective value:\s+(\S+)", text, re.MULTILINE)
        return float(value[1]) if solved and value else -math.inf
