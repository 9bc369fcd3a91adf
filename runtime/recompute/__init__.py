"""Running ops of a step again, to fill storages that were emptied with no copy."""
