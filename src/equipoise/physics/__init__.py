"""The scanner: linear operators, sampling, coil maps, noise."""
