"""What may be promised of one image, and on which evidence."""
