"""The command line: the app, and the commands that need torch."""

from runtime.cli.app import main

__all__ = ["main"]
