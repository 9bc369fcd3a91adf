"""Tests; helpers are imported as `tests.support.planning.toys` and so on."""
