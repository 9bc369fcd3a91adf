"""The command line: `plan profile`, `plan solve`, `plan show`, `plan run`.

A command imports what is slow (torch, PuLP, pandas) inside its function, so that `plan --help`
answers at once.
"""

from runtime.cli.app import main

__all__ = ["main"]
