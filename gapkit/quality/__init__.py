"""Quality: whether a distillation was done well, and what was reached by it."""
