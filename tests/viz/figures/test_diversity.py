"""Maps, matrices and curves draw the recorded metrics and the features of the images."""

import itertools
import json
import re
import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.unit_plan import diversity_unit, image_path, method_units
from prism_nb.data.registry import open_dataset
from prism_nb.diversity import stage
from prism_nb.diversity.metrics import METRICS
from prism_nb.viz import results, tables
from prism_nb.viz.figures import diversity
from prism_nb.viz.figures.diversity import (
    image_page,
    load_points,
    project,
)
from prism_nb.viz.figures.gallery import near_duplicate_sheet
from prism_nb.viz.html import Result
from prism_nb.viz.style import METHOD_COLORS
from tests.helpers.linear_teacher import DIGITS, linear_teacher

SPACE = "test_mambaout"
BOTH = (REFERENCE, "prism")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of two methods; PRISM's images are the training images 20 to 22 of each class."""
    for module in (stage, diversity):
        monkeypatch.setattr(module, "load_teacher", lambda run, name: linear_teacher(name))
    changes = {"image_size": 8, "methods": ["prism", "sre2l"], "ipc": 3, "batch_size": 10}
    run = Run.create(tmp_path / "r", load_settings("digits_quick", changes))
    dataset = open_dataset(run.settings)
    run.write_classes(dataset.class_records())
    for name in load_settings("digits_quick").plain()["teachers"]:
        path = run.file(f"teachers/units/{name}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"files": {}}')
    for unit in method_units(run, "prism", 10):
        image_index, paths = unit.params["image_indices"][0], []
        for c in range(10):
            paths.append(image_path("prism", c, image_index))
            run.file(paths[-1]).parent.mkdir(parents=True, exist_ok=True)
            training = int(dataset.class_indices("train", c)[20 + image_index])
            (pixels,) = dataset.images("train", [training]).permute(0, 2, 3, 1).numpy()
            Image.fromarray(pixels).save(run.file(paths[-1]))
        run.units.finish(unit, paths=paths, record={"images": 10})
    return run


@pytest.fixture
def measured(run: Run) -> Run:
    for name in BOTH:
        stage.run_unit(run, diversity_unit(run, name, 10), lambda event: None)
    return run


def unit_features(pixels: Tensor) -> np.ndarray:
    """The network's features: normalized pixels, here as unit vectors."""
    rows = DIGITS.normalize(pixels).flatten(1).double().numpy()
    return rows / np.sqrt((rows**2).sum(1, keepdims=True))


def traces(found: Result) -> Any:
    assert found.figure is not None, found.note
    return found.figure.data


# --- Recorded metrics ---


def test_tables_have_the_recorded_metrics(measured: Run) -> None:
    found = tables.only_measured(measured)
    table = tables.metric_table(found, SPACE)
    assert list(table.columns) == list(BOTH)
    record = measured.units.record(diversity_unit(measured, "prism", 10))["spaces"][SPACE][
        "metrics"
    ]
    for name in ("coverage", "kid"):
        assert table.loc[METRICS[name].heading, "prism"] == record[name]["mean"]
    # Fewer than half of the images are recognised, so that metrics of noise have no arrow.
    assert record["recognised"]["mean"] < 0.5
    for name in ("cosine", "vendi"):
        assert table.loc[METRICS[name].title, "prism"] == record[name]["mean"]
    expected = "Fewer than half of the images are recognised of PRISM"
    assert expected in results.metrics(found, SPACE).note
    assert table.loc["recognised % ↑", "prism"] == 100 * record["recognised"]["mean"]
    radius = tables.class_metric_table(found, SPACE, "radius").mean()
    ratio = radius["prism"] / radius[REFERENCE]
    assert table.loc["radius / real"].tolist() == pytest.approx([1, ratio])
    undefined = tables.undefined_table(found)["measures"]
    assert set(undefined) == {METRICS["cosine_recognised"].title}  # of two recognised images
    assert list(tables.agreement_table(found).index) == list(BOTH)


def test_diversity_is_drawn_against_recognition_and_again_of_the_recognised(
    measured: Run,
) -> None:
    found = results.fidelity(tables.only_measured(measured))
    metrics = measured.units.record(diversity_unit(measured, "prism", 10))["spaces"][SPACE]
    means = {name: metrics["metrics"][name]["mean"] for name in ("vendi", "vendi_recognised")}
    points = {trace.name: (trace.x[0], trace.y[0]) for trace in traces(found)}
    recognised = 100 * metrics["metrics"]["recognised"]["mean"]
    assert points["PRISM, all images"] == pytest.approx((recognised, means["vendi"]))
    only = points["PRISM, recognised images only"]
    assert only == pytest.approx((recognised, means["vendi_recognised"]))
    assert points.keys() >= {"Real images, all images"}


@pytest.mark.parametrize("measure", ["cosine", "recognised"])
def test_a_curve_is_sorted_for_each_method_by_itself(measured: Run, measure: str) -> None:
    found = results.curve(measured, SPACE, BOTH, measure)
    factor = 100 if METRICS[measure].percent else 1
    for line, method in zip(traces(found), BOTH, strict=True):
        mine = factor * found.table[method]
        assert list(line.y) == sorted(mine)
        assert [mine[name] for name in line.hovertext] == list(line.y)
        assert list(line.x) == [*range(1, 11)]
        assert line.line.color == METHOD_COLORS[method]


def test_nearest_training_images_are_found_and_their_distances_drawn(measured: Run) -> None:
    nearest = tables.nearest_table(tables.only_measured(measured), SPACE)
    assert list(nearest["distance"]) == sorted(nearest["distance"])
    own = nearest[nearest["method"] == "prism"].sort_values(["class", "image_index"])
    copies = [DIGITS.class_indices("train", c)[20 + i] for c in range(10) for i in range(3)]
    assert own["training image"].tolist() == copies
    for line, method in zip(traces(results.nearest(measured, SPACE, BOTH)), BOTH, strict=True):
        mine = nearest[nearest["method"] == method]["distance"].to_numpy()
        shares = [100 * (mine <= x).mean() for x in np.unique(mine)]
        assert dict(zip(line.x, line.y, strict=True)) == pytest.approx(
            dict(zip(np.unique(mine), shares, strict=True))
        )


def test_near_duplicates_are_above_their_training_images(measured: Run) -> None:
    found = near_duplicate_sheet(tables.only_measured(measured), "prism", SPACE)
    assert found is not None
    sheet = np.array(Image.open(BytesIO(found.content)))
    zoom = sheet.shape[0] // 18  # two rows of 8 pixels, and 2 between them
    assert (sheet[: 8 * zoom : zoom, ::zoom] == sheet[10 * zoom :: zoom, ::zoom]).all()


def test_an_undefined_metric_has_a_reason(measured: Run) -> None:
    unit = diversity_unit(measured, "prism", 10)
    record = measured.units.record(unit)
    gone = {"mean": None, "per_class": [None] * 10, "undefined": "needs more"}
    record["spaces"][SPACE]["metrics"] |= {"cosine": gone, "vendi": gone}
    measured.units.finish(unit, paths=[], record=record)
    found = results.curve(measured, SPACE, ("prism",), "vendi")
    assert (found.figure, found.note) == (None, "Vendi score: needs more")
    table = tables.undefined_table(tables.only_measured(measured))
    (row,) = table[table["undefined because"] == "needs more"].to_dict("records")
    assert (row["method"], row["features"]) == ("prism", SPACE)
    assert row["measures"] == "intra-class cosine, Vendi score"


@pytest.mark.parametrize("result", [results.curve, results.nearest])
def test_methods_without_measurements_are_named(measured: Run, result: Any) -> None:
    found = result(measured, SPACE, (*BOTH, "sre2l"))
    assert found.note == "Left out: SRe2L (missing or damaged)"
    assert len(traces(found)) == 2
    measured.file("diversity/prism.json").write_bytes(b"{")
    assert result(measured, SPACE, BOTH).note == found.note.replace("SRe2L", "PRISM")
    measured.file(f"diversity/{REFERENCE}.json").write_bytes(b"{")
    with pytest.raises(UsageError, match="Real images: not measured, or damaged"):
        result(measured, SPACE, BOTH)


# --- Features of images ---


def test_a_matrix_has_the_cosine_of_every_pair(run: Run) -> None:
    found = results.similarity(run, SPACE, BOTH, (4,))
    z = unit_features(load_points(run, SPACE, BOTH, (4,), min_real=0).pixels)
    for method, heat in enumerate(traces(found)):
        mine = z[3 * method : 3 * method + 3]
        for i, j in itertools.product(range(3), repeat=2):
            assert heat.z[i][j] == pytest.approx(float(mine[i] @ mine[j]), abs=1e-6)
            assert list(heat.customdata[i][j]) == [3 * method + i, 3 * method + j]
    assert found.deck is not None
    assert found.deck()["items"][4]["title"] == "PRISM, 4 · four, image 1"
    assert "choose one" in results.similarity(run, SPACE, BOTH, (4, 5)).note


def test_pca_is_the_singular_value_decomposition(run: Run) -> None:
    found = results.image_map(run, SPACE, ("prism",), color="method")
    z = unit_features(load_points(run, SPACE, ("prism",), range(10)).pixels)
    _, _, directions = np.linalg.svd(z - z.mean(0), full_matrices=False)
    expected = (z - z.mean(0)) @ directions[:2].T
    (points,) = traces(found)
    coordinates = np.stack([points.x, points.y], 1)
    signs = np.sign((coordinates * expected).sum(0))
    np.testing.assert_allclose(coordinates, expected * signs, atol=1e-6)
    assert [data[0] for data in points.customdata] == [*range(30)]


def test_a_map_has_more_real_images_behind_in_grey(run: Run) -> None:
    real, prism = traces(results.image_map(run, SPACE, BOTH, (1, 2), color="method"))
    assert real.marker.color == METHOD_COLORS[REFERENCE]
    assert (len(real.x), len(prism.x)) == (2 * diversity.MIN_REAL, 6)
    assert set(real.marker.symbol) == {"circle-open"}
    assert set(prism.marker.symbol) == {"square"}


def test_a_map_is_coloured_by_class_recognition_or_loss(run: Run) -> None:
    points = load_points(run, SPACE, BOTH, (1, 2))
    hits = points.predictions.classes[:, 0].numpy() == points.table["class"].to_numpy()

    def shown(color: str) -> dict[str, list[int]]:
        found = traces(results.image_map(run, SPACE, BOTH, (1, 2), color=color))
        return {t.name: [d[0] for d in t.customdata] for t in found if t.customdata is not None}

    of_class = points.table["class"] == 1
    assert shown("class")["1 · one"] == np.flatnonzero(of_class).tolist()
    recognised = shown("recognised")
    assert recognised.get("recognised", []) == np.flatnonzero(hits).tolist()
    assert recognised["not recognised"] == np.flatnonzero(~hits).tolist()
    (loss, *_) = traces(results.image_map(run, SPACE, BOTH, (1, 2), color="loss"))
    logits = linear_teacher(SPACE)(DIGITS.normalize(points.pixels))
    own = torch.tensor(points.table["class"].to_list())
    expected = torch.nn.functional.cross_entropy(logits, own, reduction="none")
    np.testing.assert_allclose(loss.marker.color, expected.detach(), rtol=1e-4)


def test_umap_is_deterministic_and_leaves_the_threads_alone() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 6))
    features = torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    threads = torch.get_num_threads()
    first = project(features, "umap")
    assert (first.shape, np.isfinite(first).all()) == ((40, 2), True)
    assert (project(features, "umap") == first).all()
    assert project(torch.eye(5, 6, dtype=torch.float64), "umap").shape == (5, 2)
    assert torch.get_num_threads() == threads


def test_umap_without_a_place_for_its_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: str) -> None:
        raise RuntimeError("cannot cache function 'rdist': no locator available")

    package = ModuleType("umap")
    package.__getattr__ = load  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "umap", package)
    with pytest.raises(UsageError, match="no UMAP here: cannot cache .* set NUMBA_CACHE_DIR"):
        project(torch.eye(5, 6, dtype=torch.float64), "umap")


@pytest.mark.parametrize(("kind", "count"), [("pca", 1), ("umap", 4)])
def test_too_few_images_for_a_map_are_refused(kind: str, count: int) -> None:
    with pytest.raises(UsageError, match="choose more classes or methods"):
        project(torch.eye(count, 6, dtype=torch.float64), kind)
    with pytest.raises(UsageError, match="not finite"):
        project(torch.full((9, 3), torch.nan, dtype=torch.float64), kind)


def test_subsampling_is_stated_and_deterministic(run: Run) -> None:
    few = load_points(run, SPACE, BOTH, range(10), most=20)
    assert few.table["method"].value_counts().to_dict() == {REFERENCE: 10, "prism": 10}
    assert few.count == "20 of 530 images"
    keys = list(zip(few.table["class"], few.table["image_index"], strict=True))
    assert keys[10:] == sorted(set(keys[10:]))
    again = load_points(run, SPACE, BOTH, range(10), most=20)
    pd.testing.assert_frame_equal(few.table, again.table)
    np.testing.assert_allclose(few.features, unit_features(few.pixels), atol=1e-6)
    assert load_points(run, SPACE, ("prism",), range(10), most=30).count == "30 images"


def test_methods_without_images_are_named(run: Run) -> None:
    found = results.image_map(run, SPACE, ("prism", "sre2l"))
    assert found.note == "Left out: SRe2L (missing or damaged)"
    for unit in method_units(run, "prism", 10):
        run.file(unit.marker).write_bytes(b"{")
    with pytest.raises(UsageError, match="no images of these methods, or damaged ones"):
        results.image_map(run, SPACE, ("prism", "sre2l"))


def test_a_page_of_images_works_offline_and_escapes(run: Run) -> None:
    found = results.image_map(run, SPACE, BOTH, (1,))
    assert found.figure is not None
    assert found.deck is not None
    deck = found.deck()
    deck["items"][0]["title"] = "</script><b>"
    page, height = image_page(found.figure, deck)
    assert height > found.figure.layout.height
    assert "</script><b>" not in page
    assert not re.search(r'<(script|link)[^>]*(src|href)="?(https?:)?//', page)
    assert '"showSendToCloud": false' in page
    (shown,) = re.findall(r'<script type="application/json" id="deck">(.*?)</script>', page)
    assert json.loads(shown) == deck
