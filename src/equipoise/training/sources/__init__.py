"""What training draws its samples from."""
