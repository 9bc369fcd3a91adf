"""Published ways to plan that also, or only, run ops again."""
