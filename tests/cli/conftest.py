"""What every command does with what it cannot use: one line, and no file left behind."""

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.cli import main

Failure = Callable[..., str]


def files_in(folder: Path) -> set[Path]:
    """Hidden ones too: a half-written file hides under another name."""
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture
def failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Failure:
    """Runs a command that must fail cleanly, and returns the line that it printed."""

    def run(*words: str | Path, exit_code: int = 2) -> str:
        before = files_in(tmp_path)
        capsys.readouterr()
        assert main([str(word) for word in words]) == exit_code
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        lines = [line for line in captured.err.splitlines() if not line.endswith(" ...")]
        assert len(lines) == 1, lines
        assert lines[0].startswith("plan: ")
        assert "Wrote" not in captured.out
        assert files_in(tmp_path) == before
        return lines[0]

    return run
