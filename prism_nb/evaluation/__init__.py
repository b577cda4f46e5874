"""Evaluation: what a student trained on the distilled images alone knows of real ones."""
