"""The plan file, what it means in bytes and time, and whether it is sound: all a runtime reads."""
