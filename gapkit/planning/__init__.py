"""Planning: what can be trained, what it costs, and which of it pays."""
