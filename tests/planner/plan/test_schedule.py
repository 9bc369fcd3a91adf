"""What happens at one anchor, and in what order."""

from planner.plan.schedule import ActionKind, lower
from tests.support.planning.one_swap import one_swap_plan


def test_one_anchor_issues_then_gives_back_then_takes_then_awaits() -> None:
    found = lower(one_swap_plan())
    assert [[str(action) for action in actions] for actions in found] == [
        [],
        ["out 0"],
        ["release 0"],
        ["in 0"],
        ["await 0"],
        [],
    ]
    assert list(ActionKind) == [
        ActionKind.SWAP_OUT,
        ActionKind.RELEASE,
        ActionKind.DROP,
        ActionKind.SWAP_IN,
        ActionKind.AWAIT,
        ActionKind.REBUILD,
    ]
