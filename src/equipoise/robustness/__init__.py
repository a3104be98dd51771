"""What may be promised about a monotone network and its equilibrium."""
