"""Reports of runs and studies: one HTML file each that opens anywhere, offline."""

from prism_nb.report.build import verdict, write_report
from prism_nb.report.study import write_study_page

__all__ = ["verdict", "write_report", "write_study_page"]
