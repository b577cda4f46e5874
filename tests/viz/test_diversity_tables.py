"""Tables and figures of the diversity stage show what a run recorded."""

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.unit_plan import diversity_unit, image_path
from prism_nb.data.distilled import load_images
from prism_nb.data.registry import open_dataset
from prism_nb.diversity import stage
from prism_nb.diversity.metrics import METRICS, metrics_of
from prism_nb.viz import tables
from prism_nb.viz.figures.gallery import near_duplicate_sheet
from prism_nb.viz.figures.run import diversity_figure
from tests.helpers.linear_teacher import DIGITS, linear_teacher

SPACE = "test_mambaout"


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of one method, made of the tenth and eleventh training image of each class."""
    monkeypatch.setattr(stage, "load_teacher", lambda run, name: linear_teacher(name))
    changes: dict[str, Any] = {"image_size": 8, "methods": ["prism"], "real_per_class": 150}
    run = Run.create(tmp_path / "r", load_settings("digits_quick", changes))
    dataset = open_dataset(run.settings)
    run.write_classes(dataset.class_records())
    for c in range(10):
        for image_index, index in enumerate(dataset.class_indices("train", c)[10:12]):
            path = run.file(image_path("prism", c, image_index))
            path.parent.mkdir(parents=True, exist_ok=True)
            (pixels,) = dataset.images("train", [int(index)]).permute(0, 2, 3, 1).numpy()
            Image.fromarray(pixels).save(path)
    for name in (REFERENCE, "prism"):
        stage.run_unit(run, diversity_unit(run, name, 10), lambda event: None)
    return run


def test_tables_show_what_was_recorded(measured: Run) -> None:
    table = tables.diversity_space_table(measured, SPACE)
    assert list(table.index) == ["Real images", "PRISM"]
    record = measured.record(diversity_unit(measured, "prism", 10))["spaces"][SPACE]["metrics"]
    for name in ("cosine", "vendi", "coverage", "kid"):
        assert table.loc["PRISM", METRICS[name].heading] == record[name]["mean"]
    assert table.loc["PRISM", "recognised % ↑"] == 100 * record["recognised"]["mean"]
    assert table.loc["Real images", tables.RATIO] == pytest.approx(1)
    assert table.loc["PRISM", "nearest training image"] == pytest.approx(0, abs=1e-6)
    assert table.loc["Real images", "nearest training image"] > 0.01
    short = tables.diversity_table(measured)
    assert short.loc["prism", "intra-class cosine"] == record["cosine"]["mean"]
    assert list(tables.agreement_table(measured).index) == list(table.index)
    assert not len(tables.undefined_table(measured))


def test_the_radius_is_a_ratio_of_means_over_classes(measured: Run) -> None:
    per_class = tables.diversity_per_class(measured)
    radius = {m: g["radius"].mean() for m, g in per_class.groupby("method")}
    ratio = tables.diversity_space_table(measured, SPACE).loc["PRISM", tables.RATIO]
    assert ratio == pytest.approx(radius["prism"] / radius[REFERENCE])


def test_nearest_images_are_named_in_order(measured: Run) -> None:
    nearest = tables.nearest_table(measured, SPACE)
    assert list(nearest["distance"]) == sorted(nearest["distance"])
    assert len(nearest) == 2 * 20
    dataset = open_dataset(measured.settings)
    for row in nearest[nearest["method"] == "prism"].to_dict("records"):
        training = dataset.class_indices("train", row["class"])
        assert row["training image"] == training[10 + row["image_index"]]
        assert row["name"] == dataset.classes[row["class"]].name
    with pytest.raises(ValueError, match="no nearest training image is known for 'sre2l'"):
        near_duplicate_sheet(measured, "sre2l", nearest)


def test_a_sheet_shows_each_image_above_its_copy(measured: Run) -> None:
    nearest = tables.nearest_table(measured, SPACE)
    made, _ = load_images(measured, "prism", open_dataset(measured.settings))
    mine = nearest[nearest["method"] == "prism"].head(5)
    picture = near_duplicate_sheet(measured, "prism", nearest, most=5)
    sheet = np.array(Image.open(BytesIO(picture.content)))
    zoom = sheet.shape[0] // 18  # two rows of 8 pixels, and 2 between them
    above, below = sheet[: 8 * zoom : zoom, ::zoom], sheet[10 * zoom :: zoom, ::zoom]
    assert (above == below).all()
    for column, (c, image_index) in enumerate(zip(mine["class"], mine["image_index"], strict=True)):
        shown = torch.from_numpy(above[:, 10 * column : 10 * column + 8]).permute(2, 0, 1)
        assert torch.equal(shown, made[2 * c + image_index])


def test_every_metric_can_be_drawn_class_by_class(measured: Run) -> None:
    per_class = tables.diversity_per_class(measured)
    titles = {REFERENCE: "Real images", "prism": "PRISM"}
    for metric in metrics_of("class"):
        wide = tables.class_table(per_class, metric.name, titles)
        assert list(wide.columns) == ["Real images", "PRISM"]
        assert list(wide.index) == [info.name for info in DIGITS.classes]
        factor = 100 if metric.percent else 1
        for line in diversity_figure(per_class, titles, metric).data:
            assert list(line.y) == pytest.approx(list(factor * wide[line.name]))


def test_classes_of_one_name_stay_apart() -> None:
    frame = pd.DataFrame({"method": ["a", "a"], "class": ["crane", "crane"], "cosine": [0.1, 0.3]})
    wide = tables.class_table(frame, "cosine", {"a": "A"})
    assert wide["A"].tolist() == [0.1, 0.3]


def test_undefined_metrics_are_explained(measured: Run) -> None:
    unit = diversity_unit(measured, "prism", 10)
    record = measured.record(unit)
    space = record["spaces"][SPACE]["metrics"]
    for name in ("cosine", "vendi"):
        space[name] = {"mean": None, "per_class": [None] * 10, "undefined": "needs more"}
    measured.finish(unit, paths=[], record=record)
    (row,) = tables.undefined_table(measured).to_dict("records")
    assert (row["images"], row["seen by"]) == ("PRISM", SPACE)
    assert row["measures"] == "intra-class cosine, Vendi score"
    assert row["undefined because"] == "needs more"
    assert math.isnan(tables.diversity_space_table(measured, SPACE).loc["PRISM", "Vendi score ↑"])
    assert tables.diversity_per_class(measured)["cosine"].isna().sum() == 10
