"""Figures of a study draw its summary, its pairs and its images."""

import pandas as pd
import pytest

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
    assert [a.text for a in figure.layout.annotations[:2]] == ["Second", "First"]
    means = [trace for trace in figure.data if trace.name == "mean over students"]
    assert [list(trace.x) for trace in means] == [
        pytest.approx([81.667, 71.0, 10.0], abs=1e-3),
        pytest.approx([81.0, 51.033, 91.067], abs=1e-3),
    ]
    low = summarize(RECORDS).set_index(["scenario", "method"]).loc[("a", "prism"), "low"]
    assert means[1].x[0] - means[1].error_x.arrayminus[0] == pytest.approx(low)
    assert sum(trace.name == "n" for trace in figure.data) == 2


def test_a_cell_of_the_pairs_is_row_minus_column() -> None:
    second, first = figures.pair_facets(compare_pairs(RECORDS), LEGEND, SCENARIOS).data
    place = {title: index for index, title in enumerate(first.y)}
    prism, sre2l = place["PRISM"], place["SRe2L"]
    assert first.z[prism][sre2l] == pytest.approx(81 - 51.0333, abs=1e-3)
    assert first.z[sre2l][prism] == -first.z[prism][sre2l]
    assert first.text[prism][sre2l] == "+30.0 ●"
    assert second.text[prism][sre2l] == "+10.7"


def test_undefined_diversity_is_left_out_and_real_images_are_there() -> None:
    prism, sre2l, real = figures.fidelity_figure(IMAGES, LEGEND, SCENARIOS).data
    assert (prism.name, sre2l.name, real.name) == ("PRISM", "SRe2L", "Real images")
    assert list(prism.y) == [0.3]
    assert (list(real.x), list(real.y)) == ([95.0], [0.8])


def test_cost_pairs_seconds_with_accuracy() -> None:
    figure = figures.cost_figure(IMAGES, summarize(RECORDS), LEGEND, SCENARIOS)
    prism = next(trace for trace in figure.data if trace.name == "PRISM")
    assert list(prism.x) == [0.5, 0.5]
    assert sorted(prism.y) == pytest.approx([81.0, 81.667], abs=1e-3)
