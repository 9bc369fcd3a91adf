"""What the updates of a step have made, for optimizers that keep their states to themselves.

[Note: states kept back] Some optimizers hand out the states they make only when every parameter is
updated: SGD does so with its momentum buffers. Until then nobody can look such a state up, but what
an update has made and left alive, and is as large as the state, is that state or a temporary one.
If it is the wrong one, it comes back for the op that asks for it, and the state makes no trip.
"""

import weakref
from collections import defaultdict

import torch

from planner.plan import Plan
from profiles.anchors import UPDATE

STATE = "state:"


class MadeStorages:
    """Storages made in one step, by the update in which they were made.

    Attributes:
        taken: Ids of the states that a storage was taken for.
    """

    def __init__(self, plan: Plan) -> None:
        self.taken: set[int] = set()
        self._plan = plan
        self._update = ""
        self._made: defaultdict[str, list[weakref.ref[torch.UntypedStorage]]] = defaultdict(list)

    def clear(self) -> None:
        """Forgets all."""
        self.taken.clear()
        self._update = ""
        self._made.clear()

    def begin_update(self, key: str) -> None:
        """What is made from now on is made in this update, by its anchor."""
        self._update = key

    def note(self, storage: torch.UntypedStorage) -> None:
        """A storage has been made."""
        self._made[self._update].append(weakref.ref(storage))

    def take(self, storage_id: int) -> torch.UntypedStorage | None:
        """Returns what the update of its parameter made that a state of the plan can be."""
        planned = self._plan.storage(storage_id)
        if not planned.name.startswith(STATE):
            return None
        parameter = planned.name.removeprefix(STATE).rpartition(".")[0]
        for made in self._made.get(f"{UPDATE}{parameter}", ()):
            storage = made()
            if storage is not None and storage.nbytes() == planned.size_bytes:
                self._made[f"{UPDATE}{parameter}"].remove(made)
                self.taken.add(storage_id)
                return storage
        return None
