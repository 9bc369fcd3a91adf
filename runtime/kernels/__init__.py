"""Kernels that copy what a copy engine is bad at, and what carries copies by them."""
