"""The profile file and what all floors share: needs no torch, and no other room."""
