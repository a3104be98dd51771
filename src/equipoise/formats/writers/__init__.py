"""Writers of images and k-space, one module for each format."""
