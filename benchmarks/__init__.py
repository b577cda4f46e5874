"""Benchmarks: one command, a table, and the machine that it was measured on."""
