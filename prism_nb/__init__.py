"""PRISM kit: notebook-driven dataset distillation with decoupled architectural priors."""

import os

__version__ = "0.1.0"

# OpenMP reads these when it is loaded, with torch. Threads that spin while they wait for each other
# make a step many times as long once another process needs a core (docs/performance.md).
if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
