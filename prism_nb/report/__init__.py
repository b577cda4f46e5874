"""The report of a run: one HTML file that opens anywhere, offline."""

from prism_nb.report.build import verdict, write_report

__all__ = ["verdict", "write_report"]
