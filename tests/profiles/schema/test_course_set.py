"""Files of several courses: how one is named, and what is refused."""

from pathlib import Path

import pytest

from planner.plan.plan_file import read_plan, read_unverified_plan, write_plan
from planner.plan.plan_set import read_plan_set, read_unverified_plan_set, write_plan_set
from profiles.schema.course_set import course_in, shortened
from profiles.schema.errors import FileError
from profiles.schema.profile_file import read_profile
from profiles.schema.profile_set import read_profile_set, write_profile_set
from tests.support.planning.edited_files import (
    COURSES,
    PROFILE,
    READ,
    Edit,
    plan_of_it,
    plans_of_it,
    profiles_of_it,
    record,
    refused,
    write_edited,
)


def test_round_trip(tmp_path: Path) -> None:
    write_profile_set(profiles_of_it(), tmp_path / "x.json.gz")
    assert read_profile_set(tmp_path / "x.json.gz") == profiles_of_it()
    write_plan_set(plans_of_it(), tmp_path / "y.json")
    assert read_plan_set(tmp_path / "y.json") == plans_of_it()
    assert read_unverified_plan_set(tmp_path / "y.json") == plans_of_it()


def test_a_number_names_a_course_wherever_one_is_read(tmp_path: Path) -> None:
    write_profile_set(profiles_of_it(), tmp_path / "x.json")
    write_plan_set(plans_of_it(), tmp_path / "y.json")
    assert read_profile(f"{tmp_path}/x.json#2") == PROFILE
    assert read_plan(f"{tmp_path}/y.json#1") == plan_of_it()
    assert read_unverified_plan(f"{tmp_path}/y.json#2") == plan_of_it()


@pytest.mark.parametrize(
    ("name", "file", "number"),
    [
        ("x.json#2", "x.json", 2),
        ("a#b/x.json#12", "a#b/x.json", 12),
        ("x.json#", "x.json#", None),
        ("x.json#two", "x.json#two", None),
        ("#2", "#2", None),
        ("a#1/x.json", "a#1/x.json", None),
        ("x.json#99999", "x.json#99999", None),
        ("x" * 5000 + "#1", "x" * 5000, 1),
    ],
)
def test_what_names_a_course(name: str, file: str, number: int | None) -> None:
    assert course_in(Path(name)) == (Path(file), number)


def test_a_file_of_that_very_name_is_meant_itself(tmp_path: Path) -> None:
    write_plan(plan_of_it(), tmp_path / "x.json#2")
    assert read_plan(tmp_path / "x.json#2") == plan_of_it()


@pytest.mark.parametrize("number", [0, 3, 999])
def test_a_course_that_is_not_there(tmp_path: Path, number: int) -> None:
    write_plan_set(plans_of_it(), tmp_path / "y.json")
    with pytest.raises(FileError, match=rf"y.json#{number}: the file holds courses 1 to 2"):
        read_plan(tmp_path / f"y.json#{number}")


def test_several_where_one_is_wanted(tmp_path: Path) -> None:
    write_plan_set(plans_of_it(), tmp_path / "y.json")
    write_profile_set(profiles_of_it(), tmp_path / "x.json")
    for kind, name in (("plan", "y.json"), ("profile", "x.json")):
        message = refused(READ[kind], tmp_path / name)
        assert "it holds several courses, expected one" in message
        assert f"{name}#1" in message


def test_one_where_several_are_wanted(tmp_path: Path) -> None:
    write_plan(plan_of_it(), tmp_path / "y.json")
    with pytest.raises(FileError, match=r"y.json: it holds one course, .* without a number"):
        read_plan(tmp_path / "y.json#2")
    assert "runtime.load takes it" in refused(READ["plans"], tmp_path / "y.json")


OTHER_MODEL = "0" * 64


@pytest.mark.parametrize(
    ("kind", "edit", "message"),
    [
        ("profiles", {"courses": []}, "at least 1 item"),
        ("plans", {"courses": []}, "at least 1 item"),
        ("profiles", {"courses.1.course": COURSES[0]}, "course 2 is there twice"),
        ("plans", {"courses.1.course": COURSES[0]}, "course 2 is there twice"),
        ("profiles", {"courses.0.course": ""}, "at least 1 character"),
        (
            "profiles",
            {"courses.1.profile.model_fingerprint": OTHER_MODEL},
            "course 2 is of another model than course 1",
        ),
        (
            "plans",
            {"courses.1.plan.model_fingerprint": OTHER_MODEL},
            "course 2 is of another model than course 1",
        ),
        (
            "profiles",
            {"courses.1.profile.version": 4},
            "course 2: it is 'swapplan-profile' version 4, expected 'swapplan-profile' version 5",
        ),
        ("plans", {"courses.0.plan.format": "swapplan-profile"}, "course 1: it is"),
        ("profiles", {"courses.1.profile.storages.0.id": 7}, "course 2: "),
        ("plans", {"courses.1.plan.host_pool_bytes": 1}, "course 2: "),
    ],
)
def test_what_is_wrong_is_said_with_its_course(
    tmp_path: Path, kind: str, edit: Edit, message: str
) -> None:
    assert message in refused(READ[kind], write_edited(record(kind), edit, tmp_path / "x.json"))


def test_long_courses_are_shortened() -> None:
    assert shortened("model(a, b)") == "model(a, b)"
    assert shortened("model(a, b, c, d, e, f, g, h)") == "model(a, b, c, d, e, f, and 2 more)"
