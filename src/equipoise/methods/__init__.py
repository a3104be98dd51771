"""From data and A to an image: every reconstruction behind one ``solve``."""
