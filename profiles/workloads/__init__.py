"""Training steps to profile and replay: the built-in ones, and the user's own by file."""
