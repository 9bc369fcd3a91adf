"""When a step that cannot be recorded is passed over, and when its course is given up."""

from profiles.recording.attempts import MOST_RECORDINGS, MOST_UNLIKE_STEPS, Attempts, Verdict
from profiles.schema.errors import CapacityError, WorkloadError

UNLIKE, TOO_LARGE = WorkloadError("another course"), CapacityError("no room")


def test_a_few_in_a_row_are_passed_over_and_one_that_is_alike_ends_the_row() -> None:
    attempts = Attempts()
    for _ in range(10):
        for _ in range(MOST_UNLIKE_STEPS - 1):
            assert attempts.failed(UNLIKE) is Verdict.PASS_OVER
        attempts.succeeded()


def test_then_recording_begins_anew_and_at_last_is_given_up() -> None:
    attempts = Attempts()
    verdicts = [attempts.failed(UNLIKE) for _ in range(MOST_UNLIKE_STEPS * MOST_RECORDINGS)]
    row = [Verdict.PASS_OVER] * (MOST_UNLIKE_STEPS - 1)
    anew = [*row, Verdict.BEGIN_ANEW] * (MOST_RECORDINGS - 1)
    assert verdicts == [*anew, *row, Verdict.GIVE_UP]


def test_what_is_no_fault_of_the_course_is_not_passed_over() -> None:
    attempts = Attempts()
    verdicts = [attempts.failed(TOO_LARGE) for _ in range(MOST_RECORDINGS)]
    assert verdicts == [*[Verdict.BEGIN_ANEW] * (MOST_RECORDINGS - 1), Verdict.GIVE_UP]
