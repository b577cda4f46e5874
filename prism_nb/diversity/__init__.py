"""Diversity: how different the images of one class are, beside real ones of equal number."""
