"""Causes: the evidence of a diagnosis, and one function for each cause that it may name."""
