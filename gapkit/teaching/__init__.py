"""Teaching: what a student learns from, as the loss of one step."""
