"""Runs a step on its device, and writes down what happens and how long it takes."""
