"""Models as files: written, read, verified, found, described."""
