"""Host memory: how much there is, where it lies, and the slab that a plan lays out."""
