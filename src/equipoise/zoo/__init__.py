"""Model files: writing, reading, verifying, finding."""
