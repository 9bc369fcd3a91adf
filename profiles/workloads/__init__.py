"""Training steps to profile and replay: the built-in ones, and the user's own by file."""

from profiles.workloads.build import build
from profiles.workloads.catalog import WORKLOADS

__all__ = ["WORKLOADS", "build"]
