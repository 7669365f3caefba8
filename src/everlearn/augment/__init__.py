"""Altered copies of training images: transforms, and the files and rows that they become."""
