"""Tests that run on the asynchronous device, in a process of its own."""
