"""Benchmarks: one command, a table, and the machine that it was measured on."""

import prism_nb  # noqa: F401 (before torch, for how its threads wait)
