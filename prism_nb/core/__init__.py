"""Settings, recipes and presets, the run directory, units, locks and events."""
