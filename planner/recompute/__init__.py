"""What running ops again can rebuild, and the step in which it does. Profiles alone, no time."""
