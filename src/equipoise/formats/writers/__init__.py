"""Files out, one a format."""
