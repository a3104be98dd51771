"""Minimise over the weights: sources of samples, the loop, validation, checkpoints."""
