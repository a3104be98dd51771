"""What may be promised about one image, and on which evidence."""
