"""Figures of a study draw its summary, its pairs and its images."""

import pandas as pd
import pytest

from prism_nb.viz.diagnostics import dcs_table
from prism_nb.viz.figures import study as figures
from prism_nb.viz.study_report import compare_pairs, summarize
from prism_nb.viz.style import Legend
from tests.helpers.study_records import CLEAR, CLOSE, study_records

LEGEND = Legend(
    {"real": "Real images", "prism": "PRISM", "sre2l": "SRe2L", "random_real": "Random real"}
)
SCENARIOS = {"b": "Second", "a": "First"}
RECORDS = study_records({"a": CLEAR, "b": CLOSE})
IMAGES = pd.DataFrame(
    [
        {
            "scenario": scenario,
            "replicate": 0,
            "method": method,
            "cosine": cosine,
            "recognised %": 20.0,
            "real cosine": 0.8,
            "real recognised %": 95.0,
            "seconds per image": 0.5,
        }
        for scenario, cosine in (("a", float("nan")), ("b", 0.3))
        for method in ("prism", "sre2l")
    ]
)


def test_panels_have_the_studys_order_intervals_and_students() -> None:
    figure = figures.accuracy_facets(summarize(RECORDS), LEGEND, SCENARIOS)
    panels = {note.text: note.x for note in figure.layout.annotations}
    assert panels["Second"] < panels["First"]
    summary = summarize(RECORDS).set_index(["scenario", "method"])
    second, first = (trace for trace in figure.data if trace.name == "PRISM")
    assert (second.x[0], first.x[0]) == pytest.approx((81.667, 81.0), abs=1e-3)
    low = summary.loc[("a", "prism"), "low"]
    assert first.x[0] - first.error_x.arrayminus[0] == pytest.approx(low)
    students = {trace.xaxis: list(trace.x) for trace in figure.data if trace.name == "n"}
    assert students[first.xaxis] == pytest.approx([81.0, 51.033, 91.067], abs=1e-3)


def test_a_cell_of_the_pairs_is_row_minus_column() -> None:
    second, first = figures.pair_facets(compare_pairs(RECORDS), LEGEND, SCENARIOS).data
    place = {title: index for index, title in enumerate(first.y)}
    prism, sre2l = place["PRISM"], place["SRe2L"]
    assert first.z[prism][sre2l] == pytest.approx(81 - 51.0333, abs=1e-3)
    assert first.z[sre2l][prism] == -first.z[prism][sre2l]
    assert first.text[prism][sre2l] == "+30.0 ●"
    assert second.text[prism][sre2l] == "+10.7"


def test_undefined_diversity_is_left_out_and_real_images_are_there() -> None:
    real, prism, sre2l = figures.fidelity_figure(IMAGES, LEGEND, SCENARIOS).data
    names = ("Real images, Second", "PRISM, Second", "SRe2L, Second")
    assert (real.name, prism.name, sre2l.name) == names
    assert list(prism.y) == [0.3]
    assert (list(real.x), list(real.y)) == ([95.0], [0.8])


def test_cost_pairs_seconds_with_accuracy() -> None:
    figure = figures.cost_figure(IMAGES, summarize(RECORDS), LEGEND, SCENARIOS)
    points = {trace.name: (trace.x[0], trace.y[0]) for trace in figure.data}
    assert points["PRISM, First"] == pytest.approx((0.5, 81.0))
    assert points["PRISM, Second"] == pytest.approx((0.5, 81.667), abs=1e-3)


def test_a_panel_of_losses_has_the_methods_sets_and_its_dcs() -> None:
    keys = {"scenario": ["b"] * 4 + ["a"], "method": ["prism"] * 4 + ["sre2l"], "group": "g"}
    sets = pd.DataFrame({**keys, "own loss": range(5), "test loss": range(5, 0, -1)})
    figure = figures.loss_facets(sets, dcs_table(sets), LEGEND, SCENARIOS)
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["PRISM: DCS -1.00, n = 4", "SRe2L: DCS –, n = 1"]
    points = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data}
    assert points == {"Second": ([0, 1, 2, 3], [5, 4, 3, 2]), "First": ([4], [1])}
