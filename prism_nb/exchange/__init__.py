"""Other people's sets: reading them into a run, and handing a run's images on."""
