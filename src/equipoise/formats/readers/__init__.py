"""Files in, one a format."""
