"""What is to be decided: the gaps of a profile, a link, a budget. No solver, no search."""
