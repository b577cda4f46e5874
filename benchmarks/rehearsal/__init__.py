"""An ImageNet preset from end to end on generated files and random weights, killed once."""
