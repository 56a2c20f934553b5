"""Tasks: what outputs mean, beyond classification."""
