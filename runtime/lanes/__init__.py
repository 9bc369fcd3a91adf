"""Copies between device and host, in order, one lane per direction, and how fast they are."""
