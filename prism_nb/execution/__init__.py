"""Running stages: pipeline, backends, cost estimates, verification, studies."""
