"""Real and distilled images in a fixed class order."""
