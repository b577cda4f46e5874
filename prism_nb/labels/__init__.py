"""Relabel: soft labels of the teachers on augmented views of the distilled images."""
