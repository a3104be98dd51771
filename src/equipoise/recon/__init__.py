"""The story of one scan and of many: file, problems, images, file."""
