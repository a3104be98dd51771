"""H, F and what can be said of their constants, proved or measured; they know no A."""
