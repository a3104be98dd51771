"""Reconstruction at the scanner: a server and a client of the ISMRMRD streaming protocol."""
