"""What runs on the asynchronous device runs in a process of its own; see `tests.device`."""

from collections.abc import Iterable
from pathlib import Path

from tests.device.same_tests import run

FIRST = "workers.py"
"""Its plan is for other processes, and what other tests leave would count in this one's peak."""
LAST = "mutations.py"
"""What has been broken may leave anything behind."""
RUNTIME = Path(__file__).parents[1] / "runtime"
ALSO = (
    "training/test_within.py::test_a_step_that_does_not_fit_keeps_to_the_budget_from_the_first_on",
    "training/test_within.py::test_a_step_that_leaves_its_course_keeps_to_the_budget",
    "replay/test_replay.py::test_ctrl_c_leaves_everything_resident_and_hangs_nothing",
    "replay/test_replay.py::test_an_op_that_asks_for_an_absent_storage_gets_it",
    "replay/test_replay.py::test_a_proof_of_a_step_that_takes_more_says_so",
    "replay/test_periodic_replay.py::test_steps_repeat_without_another_prologue",
    "replay/test_guarded_steps.py::test_a_write_that_cannot_be_kept_is_an_error",
    "replay/test_guarded_steps.py::test_without_marks_as_on_a_gpu_what_autograd_counts_is_found",
    "replay/test_interrupts.py::test_every_instruction_of_a_move_can_be_the_last[swap_in]",
    "recompute/test_trainings.py::test_a_training_that_rebuilds_everything_is_the_same"
    "[unseen batches-True]",
    "recompute/test_trainings.py::test_a_training_that_rebuilds_everything_is_the_same"
    "[updated in backward-True]",
    "recompute/test_checkpointing.py::test_a_training_is_the_checkpointed_one_within_the_budget"
    "[not reentrant, dropout-True]",
    "recompute/test_other_steps.py::test_steps_that_are_watched_less_rebuild_as_well[step]",
)
"""Of the tests of the emulated accelerator; all of them: `tests.device.same_tests`. The first two
keep to a budget for all that the process has on the device: others must not have left any."""


def assert_pass(tests: Iterable[str]) -> None:
    done = run(*tests)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"


def test_on_the_device() -> None:
    folder = Path(__file__).parent / "on_it"
    order = {FIRST: 0, LAST: 2}
    files = sorted(folder.glob("[!_]*.py"), key=lambda path: (order.get(path.name, 1), path.name))
    assert_pass(map(str, files))


def test_what_the_emulated_accelerator_is_tested_by() -> None:
    """Not beside what counts bytes: an interrupted training may leave some behind."""
    assert_pass(str(RUNTIME / name) for name in ALSO)
