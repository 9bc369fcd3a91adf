"""Actions of a schedule, written as they print."""

from planner.plan.schedule import Action, ActionKind


def action(text: str) -> Action:
    """Reads what `str` writes of an action, such as `out 17`."""
    word, number = text.split(" ")
    return Action(ActionKind(word), int(number))
