"""Coil sensitivity maps and channels."""
