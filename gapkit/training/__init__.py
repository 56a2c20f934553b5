"""Training: carrying one training out, alone or on many devices, and keeping what came of it."""
