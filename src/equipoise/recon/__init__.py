"""From the file of a scan to the file of its images, for one scan and for many."""
