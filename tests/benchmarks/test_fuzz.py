"""The fuzzers in small; the rest is `tests.benchmarks.fuzz_files` and `fuzz_training`."""

import json
import warnings
from itertools import islice
from pathlib import Path

import pytest

from profiles.schema.errors import is_plain
from runtime.replay.statistics import FallbackWarning
from tests.benchmarks import fuzz_files, fuzz_training
from tests.support.planning.edited_files import KINDS, READ, content_of, record, refusal
from tests.support.planning.file_fuzz import broken_files
from tests.support.planning.plan_edits import edited_plans

FILES = 200
PLANS = 3


@pytest.mark.parametrize("kind", KINDS)
def test_changed_files_are_read_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    content, path = content_of(record(kind)), tmp_path / "x.json"
    accepted = 0
    for broken in islice(broken_files(content, seed=3), FILES):
        path.write_bytes(broken.data)
        message = refusal(READ[kind], path)
        assert message is None or is_plain(message), broken.how
        accepted += message is None
    assert 0 < accepted < FILES


@pytest.mark.parametrize("kind", KINDS)
def test_commands_take_what_is_read(tmp_path: Path, kind: str) -> None:
    source = fuzz_files.Source("toy", kind, content_of(record(kind)))
    (tmp_path / "sound.json").write_text(json.dumps(source.content))
    for number, broken in enumerate(islice(broken_files(source.content, seed=4), 12)):
        _, fault = fuzz_files.tried(source, broken, tmp_path, number + 1)
        assert fault is None, broken.how


def test_edited_plans_train_to_the_same_numbers() -> None:
    expected = fuzz_training.untouched()
    outcomes = set()
    for plan in fuzz_training.plans():
        # Kernels take seconds to compile.
        by_copies = (edited for edited in edited_plans(plan, seed=5) if not edited.engines)
        for edited in islice(by_copies, PLANS):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FallbackWarning)
                outcome, fault = fuzz_training.tried(edited, expected)
            assert fault is None, edited.model_dump_json()
            outcomes.add(outcome)
    assert {"replayed", "fell back"} <= outcomes
