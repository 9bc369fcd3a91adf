"""Follows a plan through real training steps: at each anchor what the schedule says."""
