"""What it takes to keep a loop within a budget, measured."""
