"""Commands: what stands behind the command line."""
