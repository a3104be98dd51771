"""Training of the weights: sources of samples, the loop, validation, checkpoints."""
