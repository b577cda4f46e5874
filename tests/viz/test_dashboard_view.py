"""The diversity dashboard without a browser: numbers shown are the numbers recorded or computed."""

import base64
import gzip
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from plotly.offline import get_plotlyjs
from torch import Tensor, nn

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.unit_plan import diversity_unit, image_path, method_units
from prism_nb.data.registry import open_dataset
from prism_nb.data.small import Digits
from prism_nb.diversity import stage
from prism_nb.diversity.metrics import metrics_of
from prism_nb.models.teacher import Teacher, dataset_preprocess
from prism_nb.viz import tables
from prism_nb.viz.figures import diversity as clouds
from prism_nb.viz.figures.diversity import (
    FIGURES,
    DashboardView,
    FigureResult,
    distance_figure,
    hover_page,
    load_points,
    project,
    render_view,
    subsample,
)
from prism_nb.viz.style import colour_of
from prism_nb.viz.tables import class_label
from prism_nb.viz.widgets.dashboard import DiversityDashboard

DIGITS = Digits(8)
SPACE = "test_mambaout"
EVERY = tuple(range(10))


def linear_teacher(name: str) -> Teacher:
    torch.manual_seed(sum(name.encode()))
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    space = dataset_preprocess(DIGITS)
    return Teacher(name, network, native=space, dataset=space)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of two methods, of which PRISM's images are there: two training images per class."""
    teacher = linear_teacher(SPACE)
    for module in (stage, clouds):
        monkeypatch.setattr(module, "load_teacher", lambda run, name: teacher)
    changes: dict[str, Any] = {"image_size": 8, "methods": ["prism", "sre2l"], "ipc": 3}
    run = Run.create(tmp_path / "r", load_settings("digits_quick", {**changes, "batch_size": 10}))
    dataset = open_dataset(run.settings)
    run.write_classes(dataset.class_records())
    for name in run.settings.teachers:
        path = run.file(f"teachers/units/{name}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"files": {}}')
    for unit in method_units(run, "prism", 10):
        image_index, paths = unit.params["image_indices"][0], []
        for c in range(10):
            paths.append(image_path("prism", c, image_index))
            run.file(paths[-1]).parent.mkdir(parents=True, exist_ok=True)
            place = int(dataset.class_indices("train", c)[20 + image_index])
            (pixels,) = dataset.images("train", [place]).permute(0, 2, 3, 1).numpy()
            Image.fromarray(pixels).save(run.file(paths[-1]))
        run.finish(unit, paths=paths, record={"images": 10})
    return run


@pytest.fixture
def measured(run: Run) -> Run:
    """The same, measured."""
    for name in (REFERENCE, "prism"):
        stage.run_unit(run, diversity_unit(run, name, 10), lambda event: None)
    return run


def view(what: str, **changes: Any) -> DashboardView:
    wanted = {"network": SPACE, "methods": (REFERENCE, "prism"), "classes": EVERY}
    return DashboardView(what=what, **{**wanted, **changes})


def unit_pixels(pixels: Tensor) -> np.ndarray:
    """What the network's features are: the pixels themselves, here at length 1."""
    rows = DIGITS.normalize(pixels).flatten(1).double().numpy()
    return rows / np.sqrt((rows**2).sum(1, keepdims=True))


def drawn(found: FigureResult) -> Any:
    assert found.figure is not None, found.words
    return found.figure


# -- the figures -----------------------------------------------------------------------------


def test_the_curve_is_sorted_for_each_method_by_itself(measured: Run) -> None:
    found = render_view(measured, view("curve"))
    per_class = tables.diversity_per_class(tables.measured_networks(measured))
    for line, method in zip(drawn(found).data, (REFERENCE, "prism"), strict=True):
        mine = per_class[per_class["method"] == method].set_index("class")["cosine"]
        assert list(line.y) == sorted(mine)
        assert [mine[name] for name in line.text] == list(line.y)
        assert list(line.x) == [*range(1, 11)]
        assert line.line.color == colour_of(method)
    assert found.table is not None
    assert found.table.loc["PRISM", "most"] == pytest.approx(max(mine))


@pytest.mark.parametrize("measure", [m.name for m in metrics_of("class")])
def test_every_measure_has_a_curve(measured: Run, measure: str) -> None:
    assert len(drawn(render_view(measured, view("curve", measure=measure))).data) == 2


def test_a_matrix_holds_the_cosine_of_every_pair(run: Run) -> None:
    found = render_view(run, view("matrix", classes=(4,)))
    assert found.images is not None
    z = unit_pixels(found.images)
    for place, heat in enumerate(drawn(found).data):
        mine = z[3 * place : 3 * place + 3]
        for i, j in itertools.product(range(3), repeat=2):
            cosine = sum(float(a) * float(b) for a, b in zip(mine[i], mine[j], strict=True))
            assert heat.z[i][j] == pytest.approx(cosine, abs=1e-6)
            assert list(heat.customdata[i][j]) == [3 * place + i, 3 * place + j]
    assert found.names[4].startswith("PRISM, 4 · four, slot 1")
    assert "name one" in render_view(run, view("matrix", classes=(4, 5))).words


def test_pca_is_the_singular_value_decomposition(run: Run) -> None:
    found = render_view(run, view("map", methods=("prism",)))
    assert found.images is not None
    z = unit_pixels(found.images)
    _, _, directions = np.linalg.svd(z - z.mean(0), full_matrices=False)
    expected = (z - z.mean(0)) @ directions[:2].T
    (points,) = drawn(found).data
    places = np.stack([points.x, points.y], 1)
    signs = np.sign((places * expected).sum(0))
    np.testing.assert_allclose(places, expected * signs, atol=1e-6)
    assert [data[0] for data in points.customdata] == [*range(30)]


def test_real_images_lie_behind_in_grey_and_more_of_them(run: Run) -> None:
    real, prism = drawn(render_view(run, view("map", classes=(1, 2)))).data
    assert real.marker.color == colour_of(REFERENCE)
    assert len(real.x) == 2 * clouds.REAL_BEHIND
    assert len(prism.x) == 6
    assert real.marker.symbol != prism.marker.symbol


def test_umap_is_the_same_every_time() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 6))
    features = torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    first = project(features, "umap")
    assert first.shape == (40, 2)
    assert np.isfinite(first).all()
    assert (project(features, "umap") == first).all()


def test_umap_leaves_the_number_of_threads_alone() -> None:
    program = (  # in a process where it has not worked yet
        "import torch; from prism_nb.viz.figures.diversity import project; "
        "torch.set_num_threads(1); before = torch.get_num_threads(); "
        "project(torch.randn(40, 6).double(), 'umap'); "
        "print(before, torch.get_num_threads())"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout.split() == ["1", "1"], ended.stderr


@pytest.mark.parametrize(("kind", "count"), [("pca", 1), ("umap", 4)])
def test_too_few_for_a_map_is_said(kind: str, count: int) -> None:
    with pytest.raises(UsageError, match="name more classes or methods"):
        project(torch.eye(count, 6, dtype=torch.float64), kind)


def test_the_least_that_a_map_takes_is_enough() -> None:
    assert project(torch.eye(2, 6, dtype=torch.float64), "pca").shape == (2, 2)
    assert project(torch.eye(5, 6, dtype=torch.float64), "umap").shape == (5, 2)


def test_features_without_a_direction_have_no_map() -> None:
    with pytest.raises(UsageError, match="not finite"):
        project(torch.full((9, 3), torch.nan, dtype=torch.float64), "pca")


def test_distances_fall_into_their_bins(measured: Run) -> None:
    found = render_view(measured, view("distances"))
    nearest = tables.nearest_table(tables.measured_networks(measured), SPACE)
    for line, method in zip(drawn(found).data, (REFERENCE, "prism"), strict=True):
        mine = nearest[nearest["method"] == method]["distance"].tolist()
        assert sum(line.y[:-1]) == pytest.approx(100)
        edges = list(line.x)
        for k in range(len(edges) - 1):
            last = k == len(edges) - 2
            inside = [d for d in mine if edges[k] <= d < edges[k + 1] or (last and d == edges[-1])]
            assert line.y[k] == pytest.approx(100 * len(inside) / len(mine))
    within = render_view(measured, view("distances", near="within"))
    assert within.table is not None
    assert within.table["values"].tolist() == [10, 10]


def test_distances_that_are_all_zero_can_be_drawn() -> None:
    frame = pd.DataFrame({"method": ["random_real"] * 3, "distance": [0.0] * 3})
    (line,) = distance_figure(frame, {}, "x").data
    assert line.y[0] == 100


def test_bars_carry_the_tables_values(measured: Run) -> None:
    found = render_view(measured, view("bars"))
    space = tables.diversity_space_table(tables.measured_networks(measured), SPACE)
    columns = ["Vendi score ↑", "coverage ↑", tables.RATIO]
    for bars, column in zip(drawn(found).data, columns, strict=True):
        assert list(bars.y) == space[column].tolist()
        assert list(bars.marker.color) == [colour_of(REFERENCE), colour_of("prism")]
        assert bars.text[1] == f"{space[column]['PRISM']:.3g}"


# -- sub-sampling and memory -----------------------------------------------------------------


def test_sub_sampling_is_said_and_the_same_every_time(run: Run) -> None:
    methods = (REFERENCE, "prism")
    few = load_points(run, SPACE, methods, EVERY, most=20)
    assert few.table["method"].value_counts().to_dict() == {REFERENCE: 10, "prism": 10}
    assert few.words == "20 of 530 images"
    again = load_points(run, SPACE, methods, EVERY, most=20)
    pd.testing.assert_frame_equal(few.table, again.table)
    np.testing.assert_allclose(few.features, unit_pixels(few.pixels), atol=1e-6)
    assert load_points(run, SPACE, ("prism",), EVERY, most=30).words == "30 images"


def test_some_are_drawn_without_repetition_and_stay_in_order() -> None:
    members = [(c, image_index) for c in range(20) for image_index in range(5)]
    chosen = subsample(members, 30)
    assert len(set(chosen)) == 30
    assert chosen == sorted(chosen)
    assert subsample(members, 100) == members
    assert len({c for c, _ in chosen}) > 10


def test_a_map_of_many_says_how_many_it_shows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_points, "__kwdefaults__", {"most": 12, "behind": 50})
    figure = drawn(render_view(run, view("map")))
    assert "12 of 530 images" in figure.layout.title.text


# -- what is missing is said -----------------------------------------------------------------


@pytest.mark.parametrize("what", ["curve", "distances", "bars"])
def test_nothing_measured_is_said(run: Run, what: str) -> None:
    assert render_view(run, view(what)).words == "Not shown: not measured yet: run notebook 03"


def test_methods_that_are_not_measured_are_named(measured: Run) -> None:
    found = render_view(measured, view("curve", methods=(REFERENCE, "prism", "sre2l")))
    assert found.words == "Left out: SRe2L (not measured yet: run notebook 03)"
    assert len(drawn(found).data) == 2
    alone = render_view(measured, view("bars", methods=("sre2l",)))
    assert "none of these methods is measured yet" in alone.words


@pytest.mark.parametrize("what", ["curve", "distances", "bars"])
def test_damaged_measurements_are_told_from_missing_ones(measured: Run, what: str) -> None:
    damaged = (
        "damaged: diversity/prism.json is no marker, or has been changed; run notebook 03 again"
    )
    measured.file("diversity/prism.json").write_bytes(b"{")
    assert f"Left out: PRISM ({damaged}" in render_view(measured, view(what)).words
    assert f"Not shown: {damaged}" in render_view(measured, view(what, methods=("prism",))).words
    measured.file(f"diversity/{REFERENCE}.json").write_bytes(b"{")
    assert render_view(measured, view(what)).words.startswith("Not shown: damaged: diversity/")


def test_images_of_damaged_units_are_told_from_missing_ones(run: Run) -> None:
    units = method_units(run, "prism", 10)
    for unit in units:
        run.file(unit.marker).write_bytes(b"{")
    words = f"{len(units)} of {len(units)} units not usable, first damaged: {units[0].marker}"
    assert f"Left out: PRISM ({words}" in render_view(run, view("map")).words
    assert words in render_view(run, view("map", methods=("prism",))).words


def test_methods_without_images_are_named(run: Run) -> None:
    found = render_view(run, view("map", methods=("prism", "sre2l")))
    assert found.words == "Left out: SRe2L (no images yet: run notebook 02)"
    assert "run notebook 02" in render_view(run, view("map", methods=("sre2l",))).words
    assert render_view(run, view("map", methods=())).words == "Choose at least one method."


def test_an_undefined_measure_says_why(measured: Run) -> None:
    unit = diversity_unit(measured, "prism", 10)
    record = measured.record(unit)
    gone = {"mean": None, "per_class": [None] * 10, "undefined": "needs more"}
    record["spaces"][SPACE]["metrics"]["vendi"] = gone
    measured.finish(unit, paths=[], record=record)
    found = render_view(measured, view("curve", methods=("prism",), measure="vendi"))
    assert found.words == "Not shown: needs more"


# -- the widget and its page -----------------------------------------------------------------


def test_the_widget_draws_asks_and_saves(measured: Run) -> None:
    dashboard = DiversityDashboard(measured)
    assert dashboard.measure.layout.display is None
    assert dashboard.classes.layout.display == "none"
    dashboard.methods.value = (REFERENCE, "prism")
    dashboard.measure.value = "vendi"
    (output,) = dashboard.output.outputs
    title = output["data"]["application/vnd.plotly.v1+json"]["layout"]["title"]["text"]
    assert title.startswith("Vendi score")
    dashboard.save.click()
    assert "figures/dashboard_curve_vendi.html" in dashboard.status.value
    saved = pd.read_csv(measured.file("figures/dashboard_curve_vendi.csv"))
    assert saved["method"].tolist() == ["Real images", "PRISM"]
    dashboard.what.value = "matrix"
    assert dashboard.measure.layout.display == "none"
    assert dashboard.output.outputs == ()
    assert "<iframe" in dashboard.page.value
    dashboard.classes.value = "seventeen"
    assert "no class" in dashboard.status.value
    assert dashboard.page.value == ""
    assert dashboard.save.disabled
    dashboard.classes.value = class_label(DIGITS.classes[7])
    assert "7 · seven" in dashboard.page.value


def test_a_dashboard_of_a_run_without_results_opens(run: Run) -> None:
    dashboard = DiversityDashboard(run)
    for what in FIGURES:
        dashboard.what.value = what
    assert "run notebook 03" in dashboard.status.value


def test_a_page_stands_alone_and_escapes(run: Run) -> None:
    found = render_view(run, view("map", classes=(1,)))
    assert found.images is not None
    page = hover_page(drawn(found), found.images, ["</script><b>"] * len(found.images), "<title>")
    assert "</script><b>" not in page
    assert "<title>&lt;title&gt;" in page
    assert not re.search(r'(src|href)="?(https?:)?//', page)
    (data,) = re.findall(r"const {.*} = (.*);", page)
    assert json.loads(data)["names"][0] == "</script><b>"


def test_a_page_brings_its_library_along_and_stays_small(run: Run) -> None:
    found = render_view(run, view("map", classes=(1,)))
    assert found.images is not None
    page = hover_page(drawn(found), found.images, found.names, "a map")
    (packed,) = re.findall(r'id="library">(.*?)</script>', page)
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()
    assert len(page) < 2_500_000
    assert '"showSendToCloud": false' in page
