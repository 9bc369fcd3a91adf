"""Tables of links and accelerators, each figure with its source: needs no torch."""
