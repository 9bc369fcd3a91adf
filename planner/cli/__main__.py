"""Lets `python -m planner.cli` stand for `plan`."""

import sys

from planner.cli.app import main

sys.exit(main())
