"""A gallery shows the pixels of the files, in the asked order, and why some are missing."""

import base64
import json
import re
from dataclasses import replace
from io import BytesIO
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import jensenshannon
from torch import Tensor

from prism_nb.core.config import load_settings
from prism_nb.core.fileio import write_bytes
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.unit_plan import batch_of, diversity_unit, image_path, method_units
from prism_nb.core.units import Unit
from prism_nb.data.distilled import load_images
from prism_nb.data.image_io import encode_image
from prism_nb.data.registry import open_dataset
from prism_nb.models.teacher import Teacher
from prism_nb.synthesis.init import initial_images_uint8
from prism_nb.viz.figures import gallery
from prism_nb.viz.figures.gallery import (
    ORDERS,
    GalleryView,
    gallery_html,
    gallery_sheet,
    panels,
    per_page,
    sort_images,
)
from tests.helpers.linear_teacher import DIGITS, linear_teacher

SPACE = "test_mambaout"


def pixels_of(c: int, image_index: int) -> Tensor:
    """The pixels of an image of the run below; no two are equal."""
    generator = torch.Generator().manual_seed(100 * c + image_index)
    return torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator)


@pytest.fixture
def empty(tmp_path: Path) -> Run:
    """A run of two methods without images."""
    changes: dict[str, Any] = {
        "image_size": 8,
        "methods": ["sre2l", "random_real"],
        "ipc": 3,
        "batch_size": 10,
        "recipe": {"init": "noise", "iterations": 4},
    }
    settings = load_settings("digits_quick", changes)
    run = Run.create(tmp_path / "r", settings)
    run.write_classes(open_dataset(settings).class_records())
    for name in load_settings("digits_quick").plain()["teachers"]:
        write_bytes(run.file(f"teachers/units/{name}.json"), b'{"files": {}}')
    return run


@pytest.fixture
def made(empty: Run) -> Run:
    """The same with all images of SRe2L, a unit per index, whose losses fall with the index."""
    for unit in method_units(empty, "sre2l", 10):
        make(empty, unit)
    return empty


def make(run: Run, unit: Unit) -> None:
    paths = []
    for c, image_index in batch_of(unit).members():
        paths.append(image_path("sre2l", c, image_index))
        write_bytes(run.file(paths[-1]), encode_image(pixels_of(c, image_index)))
    (image_index, _) = unit.params["image_indices"]
    losses = {"logit/test_resnet": 3.0 - image_index, "bn/test_resnet": 1.0, "bn/test_byobnet": 5.0}
    draws = {"resample_every": 0, "bn_teachers": [["test_resnet", "test_byobnet"]]}
    run.units.finish(
        unit, paths=paths, record={"losses": losses, "draws": draws, "images": len(paths)}
    )


@pytest.fixture(autouse=True)
def teachers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Teacher]:
    known = {n: linear_teacher(n) for n in load_settings("digits_quick").plain()["teachers"]}
    monkeypatch.setattr(gallery, "load_teacher", lambda run, name: known[name])
    return known


def shown(run: Run, **changes: Any) -> list[tuple[int, int]]:
    """The class and index of each image of SRe2L that a view shows."""
    wanted = {"methods": ("sre2l",), "classes": tuple(range(10)), "network": SPACE}
    (panel,) = panels(run, GalleryView(**{**wanted, **changes}))
    return list(zip(panel.rows["class"], panel.rows["image_index"], strict=True))


def note_of(run: Run, **changes: Any) -> str:
    (panel,) = panels(run, GalleryView(("sre2l",), (0, 1), network=SPACE, **changes))
    return panel.note


def test_pages_show_every_image_once_and_in_order(made: Run) -> None:
    pages = [shown(made, per_page=8, page=page) for page in range(4)]
    assert [len(page) for page in pages] == [8, 8, 8, 6]
    assert [key for page in pages for key in page] == [
        (c, index) for c in range(10) for index in range(3)
    ]
    assert shown(made, per_page=8, page=9) == pages[-1]
    assert shown(made, classes=(7, 2)) == [(7, 0), (7, 1), (7, 2), (2, 0), (2, 1), (2, 2)]


def test_the_pixels_are_those_of_the_files(made: Run) -> None:
    mine, real = panels(made, GalleryView(("sre2l", REFERENCE), (4, 1)))
    assert torch.equal(
        mine.images, torch.stack([pixels_of(c, i) for c in (4, 1) for i in range(3)])
    )
    every, _ = load_images(made, REFERENCE, open_dataset(made.settings))
    assert torch.equal(real.images, every[[12, 13, 14, 3, 4, 5]])


def test_images_are_sorted_by_the_loss_of_their_unit(made: Run) -> None:
    found = shown(made, order="unit_loss")
    assert [index for _, index in found] == [2] * 10 + [1] * 10 + [0] * 10
    assert [c for c, _ in found] == [*range(10)] * 3
    assert shown(made, order="unit_loss", reverse=True)[0] == (0, 0)


@pytest.mark.parametrize("order", ["own_loss", "agreement"])
def test_images_are_sorted_by_what_the_teachers_see(
    made: Run, teachers: dict[str, Teacher], order: str
) -> None:
    found = {}
    for c, index in product(range(10), range(3)):
        image = DIGITS.normalize(pixels_of(c, index)[None])
        logits = {name: teacher(image)[0].double() for name, teacher in teachers.items()}
        pairs = combinations([each.softmax(0) for each in logits.values()], 2)
        found[c, index] = {
            "own_loss": float(-logits["test_resnet"].log_softmax(0)[c]),
            "agreement": float(np.mean([jensenshannon(a, b) ** 2 for a, b in pairs])),
        }[order]
    assert shown(made, order=order) == sorted(found, key=found.__getitem__)


def test_images_are_sorted_by_recorded_distance(made: Run) -> None:
    distances = np.random.default_rng(0).permutation(30) / 30
    unit = diversity_unit(made, "sre2l", 10)
    spaces = {SPACE: {"nearest_real": {"distance": distances.tolist(), "index": [0] * 30}}}
    made.units.finish(unit, paths=[], record={"spaces": spaces})
    assert shown(made, order="distance") == [divmod(int(i), 3) for i in np.argsort(distances)]


@pytest.mark.parametrize(("reverse", "expected"), [(False, [2, 0, 3, 1]), (True, [0, 3, 2, 1])])
def test_images_without_a_value_come_last(reverse: bool, expected: list[int]) -> None:
    values = {"class": 0, "image_index": [0, 1, 2, 3], "distance": [0.2, np.nan, 0.1, 0.2]}
    found = sort_images(pd.DataFrame(values), ORDERS["distance"], reverse=reverse)
    assert found["image_index"].tolist() == expected


def test_initial_images_are_known_of_optimised_ones(made: Run) -> None:
    view = GalleryView(("sre2l", "random_real"), (6, 2), before=True, order="unit_loss")
    mine, real = panels(made, view)
    keys = list(zip(mine.rows["class"], mine.rows["image_index"], strict=True))
    assert mine.before is not None
    assert torch.equal(mine.before, initial_images_uint8(made, "sre2l", keys))
    assert real.before is None


def test_missing_and_damaged_images_are_counted(empty: Run) -> None:
    missing = "images; the others are missing or damaged: run notebook 02"
    assert note_of(empty) == f"0 of 6 {missing}"
    first, *others = method_units(empty, "sre2l", 10)
    make(empty, first)
    assert note_of(empty) == f"2 of 6 {missing}"
    for unit in others:
        make(empty, unit)
    assert note_of(empty) == ""
    empty.file(first.marker).write_bytes(b"{")
    assert note_of(empty) == f"4 of 6 {missing}"


def test_an_order_without_values_has_a_reason(made: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert note_of(made, order="distance") == (
        "in order of class and index: no distance to the nearest training image is known"
    )
    monkeypatch.setattr("prism_nb.viz.figures.gallery.MAX_SCORED", 5)
    assert "these are 6; choose fewer classes" in note_of(made, order="agreement")


def test_a_damaged_image_leaves_the_other_methods(made: Run) -> None:
    made.file(image_path("sre2l", 2, 1)).write_bytes(b"no picture")
    mine, real = panels(made, GalleryView(("sre2l", REFERENCE), (2,)))
    assert "00002_0001.png cannot be read" in mine.note
    assert (len(mine.images), len(real.images)) == (0, 3)


def test_a_page_shows_each_image_after_its_initial_one(made: Run) -> None:
    view = GalleryView(("sre2l",), (3, 8), side=16, before=True)
    found = panels(made, view)
    page = gallery_html(made, found, view)
    sources = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert found[0].before is not None
    both = torch.stack([found[0].before, found[0].images], 1).flatten(0, 1)
    for source, image in zip(sources, both, strict=True):
        pixels = np.array(Image.open(BytesIO(base64.b64decode(source))))
        assert (pixels == image.permute(1, 2, 0).numpy()).all()


def test_a_page_has_the_facts_of_each_image(made: Run) -> None:
    view = GalleryView(("sre2l", REFERENCE), (4,))
    page = gallery_html(made, panels(made, view), view)
    decks = re.findall(r'<script type="application/json">(.*?)</script>', page)
    mine, real = (json.loads(deck)["items"] for deck in decks)
    assert mine[1]["title"] == "SRe2L, 4 · four, image 1"
    assert mine[1]["teachers"] == "test_resnet, test_byobnet"
    assert mine[1]["losses"] == [["logits, its unit", "2"], ["BN statistics, its unit", "3"]]
    assert (len(real), real[0]["losses"]) == (3, [])


@pytest.mark.parametrize("before", [False, True])
def test_a_saved_page_repeats_pixels_and_nothing_else(made: Run, before: bool) -> None:
    view = GalleryView(("sre2l",), (2,), side=24, before=before)
    (panel,) = panels(made, view)
    sheet = np.array(Image.open(BytesIO(gallery_sheet([panel], view).content)))[22:]
    for i, image in enumerate(panel.images):
        left = 26 * (2 * i + 1 if before else i)
        cut = sheet[:24, left : left + 24]
        assert (cut == image.permute(1, 2, 0).numpy().repeat(3, 0).repeat(3, 1)).all()


def test_a_comparison_has_a_row_per_set_and_a_column_per_class(made: Run) -> None:
    run = Run(made.path, made.settings.replace(methods=["sre2l"]))
    sheet = np.array(Image.open(BytesIO(gallery.comparison_sheet(run).content)))
    zoom, gap, title = 11, 2, 22  # ten images of 8 pixels in a width of 900
    for row, name in enumerate(("real", "sre2l")):
        first = load_images(run, name, open_dataset(run.settings))[0][::3]
        top = row * (title + 8 * zoom) + title
        for column, image in enumerate(first):
            left = column * (8 * zoom + gap)
            cut = sheet[top : top + 8 * zoom, left : left + 8 * zoom]
            assert (cut == image.permute(1, 2, 0).numpy().repeat(zoom, 0).repeat(zoom, 1)).all()


def test_a_page_is_limited_to_what_a_browser_bears(
    made: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = GalleryView(("sre2l",), tuple(range(10)), side=64, per_page=1000)
    assert per_page(made, view) == 1000
    monkeypatch.setattr("prism_nb.viz.figures.gallery.MAX_PAGE_PIXELS", 12 * 8 * 8)
    assert per_page(made, view) == 12
    assert per_page(made, replace(view, before=True)) == 6
    assert per_page(made, replace(view, side=4)) == 48
    assert len(shown(made, per_page=1000)) == 12
