"""Reconstruction methods behind one interface, ``x = method(kspace, A)``, and their files."""
