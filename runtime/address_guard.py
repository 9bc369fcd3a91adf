"""Brings back what the plan has away before code that runs no op gets at its memory.

Ops are seen by modes, in watched steps and between steps. This one hears of addresses
(`profiles.addresses`), in every step, watched or not, as long as the replay is attached: a method
that nobody calls costs nothing.

[Note: addresses and threads] Between two steps an address may be taken in any thread. In a step
only those that run it are heard, its own and autograd's: bringing something back for another thread
would meet the plan's own moves of the same storage.
"""

import threading

import torch

from profiles.addresses import Listening, in_thread_of_step
from profiles.profile import Access
from runtime.accountant import Accountant
from runtime.boundary_guard import BoundaryGuard


class AddressGuard:
    """Hears of addresses for one replay, until `remove`."""

    def __init__(self, accountant: Accountant, between_steps: BoundaryGuard) -> None:
        """Begins to listen.

        Args:
            accountant: Knows what may not be touched during a step, and is told of it.
            between_steps: Told of what is touched between steps.
        """
        self._accountant = accountant
        self._between_steps = between_steps
        self._step_thread: int | None = None
        self._listening = Listening(self._on_address)

    def begin_step(self) -> None:
        """What this thread does from now on is a step."""
        self._step_thread = threading.get_ident()

    def end_step(self) -> None:
        """The step has ended; may be repeated."""
        self._step_thread = None

    def remove(self) -> None:
        """Ends it."""
        self._listening.remove()

    def _on_address(self, storage: torch.UntypedStorage, access: Access) -> None:
        step_thread = self._step_thread
        if step_thread is None:
            self._between_steps.look_at(storage)
        elif in_thread_of_step(step_thread):
            self._accountant.see_address(storage, writes=access is Access.WRITE)
