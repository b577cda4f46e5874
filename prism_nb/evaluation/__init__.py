"""Relabel and evaluation: soft labels, students, and scores."""
