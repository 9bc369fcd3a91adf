"""Lets `python -m planner` stand for the planning commands of `plan`, without torch."""

import sys

from planner.cli.main import main

sys.exit(main())
