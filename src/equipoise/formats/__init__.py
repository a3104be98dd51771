"""Reading and writing files, one module for each format; :func:`read` recognises the content."""

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.readers.registry import read
from equipoise.formats.slices import as_slices

__all__ = ["Acquisition", "as_slices", "read"]
