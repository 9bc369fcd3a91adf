"""An asynchronous accelerator that is always at hand: its memory is the host's, its work is late.

See `tests.device.accelerator`. What runs on it is run in a process of its own: torch counts its
accelerators when the first backward begins, and asks the one there is for all that is pinned.

`tests/device/on_it` has what is for it alone; besides, the tests of the emulated accelerator run on
it, the same functions: `python -m tests.device.same_tests`. What is to be seen on it in all is
`python -m tests.device.acceptance`.
"""
