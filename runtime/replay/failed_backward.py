"""Lets go of what torch keeps of a backward that raised.

Torch's engine keeps the nodes of a failed backward that had been ready to run, and with them their
graph and what it saved, until another backward runs in the same thread. Without a plan nobody
minds. A step within a budget has no room for the activations of an earlier one.
"""

from contextlib import suppress

import torch

from profiles.hooks.mode_stack import unseen


def let_go_of_failed_backward() -> None:
    """Runs the least backward there is, seen by no mode; it never raises an error of its own."""
    with (
        suppress(Exception),
        unseen(),
        torch._C.DisableTorchFunction(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        torch.zeros((), device="cpu", requires_grad=True).backward()
