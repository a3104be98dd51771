"""Sources from which training draws its samples."""
