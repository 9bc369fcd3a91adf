"""Training loops as people write them, with real packages, each within a budget or without."""
