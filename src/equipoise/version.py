"""The version of the package, for the build too."""

__version__ = "0.1.0"
