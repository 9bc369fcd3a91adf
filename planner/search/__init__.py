"""Timings for chosen gaps and better choices, judged on a simulated clock."""
