"""Every widget on runs that it can and cannot show."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import ipywidgets
import pytest

from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run
from prism_nb.viz.widgets.base import RunOrPath, RunWidget, set_options
from prism_nb.viz.widgets.dashboard import DiversityDashboard
from prism_nb.viz.widgets.gallery import Gallery
from prism_nb.viz.widgets.run_monitor import RunMonitor
from prism_nb.viz.widgets.teacher_picker import TeacherPicker

Make = Callable[[RunOrPath], RunWidget]
every_widget = pytest.mark.parametrize(
    "make",
    [DiversityDashboard, Gallery, partial(RunMonitor, every=0), TeacherPicker],
    ids=["dashboard", "gallery", "monitor", "picker"],
)


@every_widget
def test_a_run_or_its_folder_is_shown_without_a_notice(run: Run, make: Make) -> None:
    for place in (run, str(run.path)):
        widget = make(place)
        assert widget.notice.value == ""
        assert len(widget.children) > 1
        assert "application/vnd.jupyter.widget-view+json" in widget._repr_mimebundle_()


@every_widget
def test_a_run_of_a_newer_kit_is_shown_with_a_notice(run: Run, make: Make) -> None:
    run.manifest.update(environment={"versions": {"prism-nb": "99.0"}})
    widget = make(run)
    assert "made by version 99.0 of the kit, newer than this one" in widget.notice.value
    assert len(widget.children) > 1
    config = run.path / "config.yaml"
    config.write_text(config.read_text() + "hologram: true\n")
    widget = make(run.path)
    assert "update the kit to open it" in widget.notice.value
    assert widget.children == (widget.notice,)


@every_widget
def test_what_is_no_run_is_refused(tmp_path: Path, make: Make) -> None:
    for place, reason in ((tmp_path, "no run has begun"), (tmp_path / "<b>", "no folder")):
        widget = make(place)
        assert reason in widget.notice.value
        assert "<b>" not in widget.notice.value
        assert widget.children == (widget.notice,)
    (tmp_path / "study.json").write_text("{}")
    assert "is a study&#x27;s folder" in make(tmp_path).notice.value


@every_widget
def test_a_dataset_that_is_gone_is_named(run: Run, tmp_path: Path, make: Make) -> None:
    lost = {"dataset": "folder", "data_dir": str(tmp_path / "gone")}
    widget = make(Run(run.path, run.settings.model_copy(update=lost)))
    lines = (getattr(widget, name, widget.notice) for name in ("notice", "message", "status"))
    assert any(str(tmp_path / "gone") in line.value for line in lines)


@pytest.mark.parametrize("widget", [DiversityDashboard, Gallery, TeacherPicker])
def test_without_a_run_there_is_no_value(
    tmp_path: Path, widget: type[DiversityDashboard | Gallery | TeacherPicker]
) -> None:
    with pytest.raises(UsageError, match="no run has begun"):
        _ = widget(tmp_path).value


def test_a_list_is_unselected_before_its_options_change() -> None:
    control = ipywidgets.SelectMultiple(options=["a", "b", "c"], value=["b", "c"])
    seen: list[tuple[str, ...]] = []
    control.observe(lambda _: seen.append(control.value), names="options")
    set_options(control, ["c", "d"])
    assert seen == [()]
    assert control.value == ("c",)


def test_a_choice_stays_as_long_as_it_is_an_option() -> None:
    control = ipywidgets.Dropdown(options=["a", "b"], value="b")
    set_options(control, ["c", "b"])
    assert control.value == "b"
    set_options(control, [("the a", "a")])
    assert control.value == "a"
