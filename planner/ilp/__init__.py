"""The integer program: the only room that knows PuLP and its solvers."""
