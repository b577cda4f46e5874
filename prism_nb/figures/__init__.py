"""Figures: pure functions from tables to plotly figures, and pictures of images."""
