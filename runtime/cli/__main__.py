"""Lets `python -m runtime.cli` stand for `plan`."""

import sys

from runtime.cli import main

sys.exit(main())
