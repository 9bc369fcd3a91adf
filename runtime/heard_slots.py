"""Which anchors a replay hears: those inside the optimizer step only if its plan acts there."""

from planner.plan import Plan
from planner.schedule import Schedule
from profiles.anchors import Reported, is_update


class HeardSlots:
    """The slots of a plan whose anchors are reported.

    [Note: updates that nobody planned for] Finding updates costs time for each op, so they are
    reported only if the plan has an action at one of them; if not, their slots are passed over.
    And the first step may reach parameters more often than the recorded one: `foreach` optimizers
    update all of them at once, but some make their states one by one. An update that is not the
    next of the plan tells nothing of the step's course, then.

    Attributes:
        reported: Which anchors have to be reported.
    """

    def __init__(self, plan: Plan, schedule: Schedule) -> None:
        self._anchors = tuple(slot.anchor for slot in plan.slots)
        acts = any(is_update(key) and row for key, row in zip(self._anchors, schedule, strict=True))
        self.reported = Reported.EVERYTHING if acts else Reported.ALL_BUT_UPDATES

    def is_extra(self, key: str, slot: int) -> bool:
        """Whether an anchor is an update, but not the one that opens a slot."""
        return is_update(key) and self._anchors[slot : slot + 1] != (key,)

    def after(self, slot: int) -> int:
        """Returns the slot whose anchor is heard next."""
        slot += 1
        if self.reported is Reported.ALL_BUT_UPDATES:
            while slot < len(self._anchors) and is_update(self._anchors[slot]):
                slot += 1
        return slot
