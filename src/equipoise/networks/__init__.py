"""The networks H, and their constants, proved or measured; they do not know A."""
