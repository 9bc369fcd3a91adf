"""Tests; helpers are imported as `tests.toys` and so on."""
