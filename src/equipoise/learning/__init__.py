"""Training: data, metrics, the loop."""
