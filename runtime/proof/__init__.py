"""Trains twice, without and with a plan, and compares every bit, byte and time."""
