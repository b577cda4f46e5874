"""Widgets of the notebooks."""
