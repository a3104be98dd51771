"""Files in, files out. One file a format; :func:`read` recognises a scan from its content."""

from equipoise.formats.acquisition import Acquisition
from equipoise.formats.readers.registry import read
from equipoise.formats.slices import as_slices

__all__ = ["Acquisition", "as_slices", "read"]
