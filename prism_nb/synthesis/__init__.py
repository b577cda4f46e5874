"""Synthesis (recover): images optimized under a primary teacher and drawn BN teachers."""
