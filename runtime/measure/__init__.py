"""Measures this machine: how fast its link and its copy kernels are."""
