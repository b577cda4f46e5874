"""The dashboard draws what is chosen, and shows why where it cannot."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
import pytest

from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run
from prism_nb.data.registry import open_dataset
from prism_nb.viz.html import Result
from prism_nb.viz.widgets import dashboard as module
from prism_nb.viz.widgets.dashboard import DiversityDashboard


@pytest.fixture
def dashboard(run: Run, monkeypatch: pytest.MonkeyPatch) -> DiversityDashboard:
    """A dashboard of results that hold their options as title."""
    run.write_classes(open_dataset(run.settings).class_records())

    def curve(run: Run, network: str, methods: tuple[str, ...], measure: str) -> Result:
        if measure == "density":
            raise UsageError("no <density>")
        return Result(pd.DataFrame({"method": methods}), go.Figure(layout={"title": measure}))

    def similarity(run: Run, classes: tuple[int, ...], **_: object) -> Result:
        figure = go.Figure(layout={"title": f"classes {classes}", "height": 400})
        sheet = {"src": "", "side": 4, "pitch": 6, "columns": 1}
        return Result(figure=figure, deck=lambda: {"images": sheet, "items": []})

    fakes = {"curve": curve, "similarity": similarity}
    monkeypatch.setattr(module, "RUN_RESULTS", {**module.RUN_RESULTS, **fakes})
    return DiversityDashboard(run)


def test_a_figure_follows_its_controls_and_is_saved(
    run: Run, dashboard: DiversityDashboard
) -> None:
    dashboard.methods.value = ("real", "prism")
    dashboard.details["measure"].value = "vendi"
    (output,) = dashboard.output.outputs
    layout = output["data"]["application/vnd.plotly.v1+json"]["layout"]
    assert layout["title"]["text"] == "vendi"
    assert ">PRISM</td>" in dashboard.table.value
    dashboard.save.click()
    assert (
        "/figures/dashboard_curve_vendi.plotly.json'>"
        in dashboard.saved.outputs[0]["data"]["text/html"]
    )
    saved = pd.read_csv(run.file("figures/dashboard_curve_vendi.csv"))
    assert saved["method"].tolist() == ["real", "prism"]


def test_images_are_on_a_page_of_their_own(dashboard: DiversityDashboard) -> None:
    dashboard.what.value = "similarity"
    assert dashboard.details["measure"].layout.display == "none"
    assert dashboard.output.outputs == ()
    dashboard.details["classes"].value = "7"
    assert '<iframe title="classes (7,)"' in dashboard.page.value


def test_what_cannot_be_drawn_has_a_reason(dashboard: DiversityDashboard) -> None:
    dashboard.details["measure"].value = "density"
    assert dashboard.status.value == '<p class="prism-quiet">Not shown: no &lt;density&gt;</p>'
    assert dashboard.save.disabled
    assert dashboard.output.outputs == ()
    dashboard.details["measure"].value = "vendi"
    assert dashboard.status.value == ""
    dashboard.methods.value = ()
    assert "choose at least one method" in dashboard.status.value
