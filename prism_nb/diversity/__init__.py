"""Diversity and fidelity of distilled images in feature spaces."""
