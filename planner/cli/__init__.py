"""The planning commands: what they ask of the planner and print. The app is `runtime.cli`.

A command imports what is slow (PuLP, pandas) inside its function, so that `plan --help` answers at
once.
"""
