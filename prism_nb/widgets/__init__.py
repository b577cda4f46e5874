"""Widgets: views over plain settings; a notebook reads their value in its next cell."""

from prism_nb.widgets.diversity_dashboard import DiversityDashboard
from prism_nb.widgets.gallery import Gallery
from prism_nb.widgets.keyboard import KeyboardBox
from prism_nb.widgets.run_monitor import RunMonitor
from prism_nb.widgets.teacher_picker import TeacherPicker

__all__ = ["DiversityDashboard", "Gallery", "KeyboardBox", "RunMonitor", "TeacherPicker"]
