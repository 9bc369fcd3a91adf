"""Plan files of older versions of the program."""

import json
from pathlib import Path

from planner.plan.plan_file import read_plan, write_plan
from tests.support.planning.one_swap import slow_plan


def test_bounds_are_read_by_their_older_names(tmp_path: Path) -> None:
    plan, path = slow_plan(), tmp_path / "old.plan.json"
    content = json.loads(plan.model_dump_json())
    about = content["certificate"]
    about["bound_stall_us"] = about.pop("bound_beyond_us")
    about["loose_bound_stall_us"] = about.pop("loose_bound_beyond_us")
    path.write_text(json.dumps(content))
    assert read_plan(path) == plan
    write_plan(plan, path)
    assert "bound_stall_us" not in path.read_text()
