"""Trains in the loop that is there: records its courses, has them planned, replays the plans."""
