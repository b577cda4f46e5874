"""PRISM kit: notebook-driven dataset distillation with decoupled architectural priors."""

__version__ = "0.1.0"
