"""Plans: which units each stage has and what binds them, from the settings alone."""
