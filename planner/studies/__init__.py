"""Questions asked of many plans or of one against others: sweeps, limits, comparisons, checks."""
