"""Published ways to plan swaps, with their own selection and timing rules, to compare with."""
