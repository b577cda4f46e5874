"""PRISM kit: notebook-driven dataset distillation with decoupled architectural priors."""

from prism_nb.core.cpu_load import choose_wait_policy

__version__ = "0.1.0"

choose_wait_policy()  # before any module imports torch
