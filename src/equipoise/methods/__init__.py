"""Data and A in, image out: every reconstruction behind one ``solve``."""
