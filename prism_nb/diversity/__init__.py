"""Diversity: how different images of one class are, and whether they are images of it."""
