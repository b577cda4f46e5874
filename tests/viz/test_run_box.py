"""What every widget says of a run that it cannot show, or not as a whole."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run
from prism_nb.viz.monitor import RunOrPath
from prism_nb.viz.widgets.base import RunWidget
from prism_nb.viz.widgets.dashboard import DiversityDashboard
from prism_nb.viz.widgets.gallery import Gallery
from prism_nb.viz.widgets.run_monitor import RunMonitor
from prism_nb.viz.widgets.teacher_picker import TeacherPicker

EVERY: list[Callable[[RunOrPath], RunWidget]] = [
    DiversityDashboard,
    Gallery,
    partial(RunMonitor, every=0),
    TeacherPicker,
]
NAMES = ["dashboard", "gallery", "monitor", "picker"]
every_widget = pytest.mark.parametrize("widget", EVERY, ids=NAMES)


@every_widget
def test_a_run_or_its_folder_is_shown_without_a_notice(
    run: Run, widget: Callable[[RunOrPath], RunWidget]
) -> None:
    for place in (run, run.path, str(run.path)):
        shown = widget(place)
        assert shown.notice.value == ""
        assert shown.notice.layout.display == "none"
        assert len(shown.children) > 1


@every_widget
def test_a_run_of_a_newer_kit_is_shown_and_says_so(
    run: Run, widget: Callable[[RunOrPath], RunWidget]
) -> None:
    run.update_manifest(environment={"versions": {"prism-nb": "99.0"}})
    shown = widget(run)
    assert "made by version 99.0 of the kit, newer than this one" in shown.notice.value
    assert shown.notice.layout.display == ""
    assert len(shown.children) > 1


@every_widget
def test_settings_of_a_newer_kit_that_cannot_be_read_are_said(
    run: Run, widget: Callable[[RunOrPath], RunWidget]
) -> None:
    run.update_manifest(environment={"versions": {"prism-nb": "99.0"}})
    config = run.path / "config.yaml"
    config.write_text(config.read_text() + "hologram: true\n")
    shown = widget(run.path)
    assert "version 99.0" in shown.notice.value
    assert "update the kit to open it" in shown.notice.value
    assert shown.children == (shown.notice,)


@every_widget
def test_what_is_no_run_is_said(tmp_path: Path, widget: Callable[[RunOrPath], RunWidget]) -> None:
    for place, words in ((tmp_path, "no run has begun"), (tmp_path / "<b>", "no folder")):
        shown = widget(place)
        assert "Nothing to show" in shown.notice.value
        assert words in shown.notice.value
        assert "<b>" not in shown.notice.value
        assert shown.children == (shown.notice,)


@every_widget
def test_a_run_whose_images_are_gone_is_said(
    run: Run, tmp_path: Path, widget: Callable[[RunOrPath], RunWidget]
) -> None:
    lost = {"dataset": "folder", "data_dir": str(tmp_path / "gone")}
    shown = widget(Run(run.path, run.settings.model_copy(update=lost)))
    lines = (getattr(shown, name, shown.notice) for name in ("notice", "words", "status"))
    assert any(str(tmp_path / "gone") in line.value for line in lines)


@pytest.mark.parametrize("widget", [DiversityDashboard, Gallery, TeacherPicker])
def test_the_value_of_a_widget_without_a_run_is_refused_in_the_same_words(
    tmp_path: Path, widget: type[DiversityDashboard | Gallery | TeacherPicker]
) -> None:
    shown = widget(tmp_path)
    with pytest.raises(UsageError, match="no run has begun"):
        _ = shown.value
