"""The gallery without a browser: which images it shows, in which order, and with which words."""

import base64
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from prism_nb.core.config import load_settings
from prism_nb.core.fileio import write_bytes
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.unit_plan import batch_of, diversity_unit, image_path, method_units
from prism_nb.data.distilled import load_images
from prism_nb.data.image_io import encode_image
from prism_nb.data.registry import open_dataset
from prism_nb.data.small import Digits
from prism_nb.diversity import features as feature_module
from prism_nb.models.teacher import Teacher, dataset_preprocess
from prism_nb.synthesis.init import initial_images_uint8
from prism_nb.viz.figures.gallery import (
    GAP,
    HEAD,
    ORDERS,
    GalleryView,
    contact_sheet_png,
    gallery_html,
    in_order,
    panels,
    per_page,
)
from prism_nb.viz.html import sprites, thumbnails
from prism_nb.viz.tables import image_table
from prism_nb.viz.widgets.gallery import Gallery

DIGITS = Digits(8)
SPACE = "test_mambaout"


def linear_teacher(name: str) -> Teacher:
    torch.manual_seed(sum(name.encode()))
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    space = dataset_preprocess(DIGITS)
    return Teacher(name, network, native=space, dataset=space)


def picture_of(c: int, image_index: int) -> Tensor:
    """The pixels of an image of the run below; no two are equal."""
    generator = torch.Generator().manual_seed(100 * c + image_index)
    return torch.randint(0, 256, (3, 8, 8), dtype=torch.uint8, generator=generator)


@pytest.fixture
def begun(tmp_path: Path) -> Run:
    """A run of two methods of which nothing is made yet."""
    recipe = {"init": "noise", "iterations": 4}
    changes: dict[str, Any] = {"image_size": 8, "methods": ["sre2l", "random_real"], "ipc": 3}
    settings = load_settings("digits_quick", {**changes, "batch_size": 10, "recipe": recipe})
    run = Run.create(tmp_path / "r", settings)
    run.write_classes(open_dataset(settings).class_records())
    for name in run.settings.teachers:
        path = run.file(f"teachers/units/{name}.json")
        write_bytes(path, b'{"files": {}}')
    return run


@pytest.fixture
def made(begun: Run) -> Run:
    """The same with all images of SRe2L, a unit per slot, whose losses fall with the slot."""
    for unit in method_units(begun, "sre2l", 10):
        make(begun, unit)
    return begun


def make(run: Run, unit: Any) -> None:
    paths = []
    for c, image_index in batch_of(unit).members():
        paths.append(image_path("sre2l", c, image_index))
        write_bytes(run.file(paths[-1]), encode_image(picture_of(c, image_index)))
    (image_index, _) = unit.params["image_indices"]
    losses = {"logit/test_resnet": 3.0 - image_index, "bn/test_resnet": 1.0, "bn/test_byobnet": 5.0}
    draws = {"resample_every": 0, "bn_teachers": [["test_resnet", "test_byobnet"]]}
    run.finish(unit, paths=paths, record={"losses": losses, "draws": draws, "images": len(paths)})


@pytest.fixture(autouse=True)
def teachers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Teacher]:
    known = {
        name: linear_teacher(name) for name in load_settings("digits_quick").plain()["teachers"]
    }
    monkeypatch.setattr(feature_module, "load_teacher", lambda run, name: known[name])
    return known


def shown(run: Run, **changes: Any) -> list[tuple[int, int]]:
    """The class and slot of each image of SRe2L that a view shows."""
    wanted = {"methods": ("sre2l",), "classes": tuple(range(10)), "network": SPACE}
    (panel,) = panels(run, GalleryView(**{**wanted, **changes}))
    return list(zip(panel.rows["class"], panel.rows["image_index"], strict=True))


# -- what is shown ---------------------------------------------------------------------------


def test_pages_show_every_image_once_and_in_order(made: Run) -> None:
    pages = [shown(made, per_page=8, page=page) for page in range(4)]
    assert [len(page) for page in pages] == [8, 8, 8, 6]
    assert [member for page in pages for member in page] == [
        (c, image_index) for c in range(10) for image_index in range(3)
    ]
    assert shown(made, per_page=8, page=9) == pages[-1]
    assert shown(made, classes=(7, 2)) == [(7, 0), (7, 1), (7, 2), (2, 0), (2, 1), (2, 2)]


def test_the_pixels_are_those_of_the_files(made: Run) -> None:
    view = GalleryView(("sre2l", REFERENCE), (4, 1))
    mine, real = panels(made, view)
    expected = torch.stack([picture_of(c, image_index) for c in (4, 1) for image_index in range(3)])
    assert torch.equal(mine.images, expected)
    every, _ = load_images(made, "real", open_dataset(made.settings))
    assert torch.equal(real.images, every[[12, 13, 14, 3, 4, 5]])


def test_by_the_loss_of_the_unit(made: Run) -> None:
    image_indices = [image_index for _, image_index in shown(made, order="unit_loss")]
    assert image_indices == [2] * 10 + [1] * 10 + [0] * 10
    assert [c for c, _ in shown(made, order="unit_loss")] == [*range(10)] * 3
    assert [s for _, s in shown(made, order="unit_loss", reverse=True)] == image_indices[::-1]


def test_by_the_loss_of_each_image(made: Run, teachers: dict[str, Teacher]) -> None:
    primary = teachers[made.settings.primary]
    losses = {}
    for c in range(10):
        for image_index in range(3):
            logits = primary(DIGITS.normalize(picture_of(c, image_index))[None])[0].double()
            losses[c, image_index] = float(torch.logsumexp(logits, 0) - logits[c])
    assert shown(made, order="own_loss") == sorted(losses, key=losses.__getitem__)
    falling = sorted(losses, key=losses.__getitem__, reverse=True)
    assert shown(made, order="own_loss", reverse=True, classes=(3,)) == [
        member for member in falling if member[0] == 3
    ]


def test_by_the_agreement_of_the_teachers(made: Run, teachers: dict[str, Teacher]) -> None:
    found = {}
    for c in range(10):
        for image_index in range(3):
            seen = [
                t(DIGITS.normalize(picture_of(c, image_index))[None])[0] for t in teachers.values()
            ]
            named = [int(logits.argmax()) for logits in seen]
            pairs = [(a, b) for a in range(len(seen)) for b in range(a)]
            apart = 0.0
            for a, b in pairs:
                p, q = (seen[i].double().softmax(0).numpy() for i in (a, b))
                m = (p + q) / 2
                apart += float((p * np.log(p / m) + q * np.log(q / m)).sum() / 2) / len(pairs)
            agree = sum(named[a] == named[b] for a, b in pairs) / len(pairs)
            found[c, image_index] = (-agree, apart)
    assert len({value[0] for value in found.values()}) > 1
    assert shown(made, order="agreement") == sorted(found, key=found.__getitem__)


def test_by_the_distance_that_the_diversity_stage_recorded(made: Run) -> None:
    distances = np.random.default_rng(0).permutation(30) / 30
    unit = diversity_unit(made, "sre2l", 10)
    spaces = {SPACE: {"nearest_real": {"distance": distances.tolist(), "index": [0] * 30}}}
    made.finish(unit, paths=[], record={"spaces": spaces})
    order = [divmod(int(i), 3) for i in np.argsort(distances)]
    assert shown(made, order="distance") == order
    view = GalleryView(("sre2l",), (0,), order="distance", network=SPACE)
    assert "0.0" in panels(made, view)[0].rows["distance"].round(3).to_string()


def test_images_without_a_value_come_last_whatever_the_direction() -> None:
    frame = pd.DataFrame(
        {"class": [0, 0, 0, 0], "image_index": [0, 1, 2, 3], "distance": [0.2, np.nan, 0.1, 0.2]}
    )
    for reverse, expected in ((False, [2, 0, 3, 1]), (True, [0, 3, 2, 1])):
        assert (
            in_order(frame, ORDERS["distance"], reverse=reverse)["image_index"].tolist() == expected
        )


def test_what_is_known_of_an_image(made: Run) -> None:
    row = image_table(made, "sre2l", [5]).iloc[1]
    assert (row["class"], row["image_index"], row["made"]) == (5, 1, True)
    assert row["unit"] == "sre2l/images001-001_classes000-009"
    assert (row["logit loss"], row["BN loss"]) == (2.0, 3.0)
    assert row["teachers"] == "test_resnet, test_byobnet"


def test_initial_images_stand_beside_their_own(made: Run) -> None:
    view = GalleryView(("sre2l", "random_real"), (6, 2), before=True, order="unit_loss")
    mine, real = panels(made, view)
    members = list(zip(mine.rows["class"], mine.rows["image_index"], strict=True))
    assert mine.before is not None
    assert torch.equal(mine.before, initial_images_uint8(made, "sre2l", members))
    assert real.before is None


# -- what is missing is said -----------------------------------------------------------------


def test_nothing_made_is_said(begun: Run) -> None:
    view = GalleryView(("sre2l",), (0, 1))
    (panel,) = panels(begun, view)
    assert panel.words == "no units yet: run notebook 02"
    page = gallery_html([panel], view, DIGITS.classes)
    assert "no units yet" in page
    assert "<figure" not in page


def test_a_half_done_synthesis_shows_what_is_there(begun: Run) -> None:
    first, *_ = method_units(begun, "sre2l", 10)
    make(begun, first)
    (panel,) = panels(begun, GalleryView(("sre2l",), (0, 1)))
    assert panel.words == "2 of 6 images are made; notebook 02 makes the others"
    assert panel.rows["image_index"].tolist() == [0, 0]


def test_a_damaged_marker_is_told_from_a_missing_one(made: Run) -> None:
    first, *_ = units = method_units(made, "sre2l", 10)
    made.file(first.marker).write_bytes(b"{")
    (panel,) = panels(made, GalleryView(("sre2l",), (0, 1)))
    assert panel.words == (
        f"4 of 6 images are there; damaged: {first.marker} is no marker, or has been changed; run "
        "notebook 02 again, which mends that"
    )
    for unit in units[1:]:
        made.file(unit.marker).write_bytes(b"{")
    (panel,) = panels(made, GalleryView(("sre2l",), (0, 1)))
    assert "no units yet" not in panel.words
    assert panel.words.startswith("3 of 3 units not usable, first damaged: ")


def test_an_order_by_damaged_distances_says_so(made: Run) -> None:
    unit = diversity_unit(made, "sre2l", 10)
    write_bytes(made.file(unit.marker), b"{")
    (panel,) = panels(made, GalleryView(("sre2l",), (0,), order="distance", network=SPACE))
    assert panel.words.startswith("in order of class and slot: damaged: diversity/sre2l.json is no")
    assert panel.words.endswith("run notebook 03 again, which mends that")


def test_an_order_without_values_is_said(made: Run) -> None:
    (panel,) = panels(made, GalleryView(("sre2l",), (0,), order="distance", network=SPACE))
    assert panel.words == "in order of class and slot: not measured yet: run notebook 03"
    assert len(panel.rows) == 3


def test_a_damaged_image_is_named_and_the_others_methods_are_shown(made: Run) -> None:
    made.file(image_path("sre2l", 2, 1)).write_bytes(b"no picture")
    mine, real = panels(made, GalleryView(("sre2l", REFERENCE), (2,)))
    assert "00002_0001.png cannot be read" in mine.words
    assert len(mine.images) == 0
    assert len(real.images) == 3


def test_more_than_teachers_can_look_at_is_refused_in_words(
    made: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prism_nb.viz.figures.gallery.MAX_SCORED", 29)
    (panel,) = panels(made, GalleryView(("sre2l",), tuple(range(10)), order="agreement"))
    assert "these are 30; name fewer classes" in panel.words
    assert len(panel.rows) == 30


# -- pictures --------------------------------------------------------------------------------


def images_of(count: int, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("side", [8, 64])
def test_a_sheet_holds_the_very_pixels_of_each_image(side: int) -> None:
    images = images_of(11)
    sheet = sprites(images, side)
    pixels = np.array(Image.open(BytesIO(sheet.picture)))
    assert sheet.kind == "png"
    for index, image in enumerate(images):
        row, column = sheet.place(index)
        cut = pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert (cut == image.permute(1, 2, 0).numpy()).all()


def test_smaller_images_are_means_of_their_pixels() -> None:
    images = images_of(3)
    for tile, image in zip(thumbnails(images, 4), images.double(), strict=True):
        means = image.reshape(3, 4, 2, 4, 2).mean((2, 4)).permute(1, 2, 0).numpy()
        assert np.abs(tile - means).max() <= 1  # rounded in each direction
    assert sprites(images, 4).kind == "jpeg"


def test_a_page_cuts_its_sheets_where_the_images_lie(made: Run) -> None:
    view = GalleryView(("sre2l",), (3, 8), side=16, before=True)
    found = panels(made, view)
    page = gallery_html(found, view, DIGITS.classes)
    (data,) = re.findall(r"data:image/png;base64,([^)]+)\)", page)
    pixels = np.array(Image.open(BytesIO(base64.b64decode(data))))
    places = re.findall(r"background-position:-(\d+)px -(\d+)px", page)
    assert len(places) == 12
    assert found[0].before is not None
    both = torch.stack([found[0].before, found[0].images], 1).flatten(0, 1)
    for (left, top), image in zip(places, both, strict=True):
        x, y = int(left) // 2, int(top) // 2  # shown at twice their size
        assert (pixels[y : y + 8, x : x + 8] == image.permute(1, 2, 0).numpy()).all()


def test_a_panel_is_as_wide_as_an_image_and_its_initial_one(made: Run) -> None:
    for before, tile in ((False, 673), (True, 1345)):
        view = GalleryView(("sre2l",), (0,), side=672, before=before)
        page = gallery_html(panels(made, view), view, DIGITS.classes)
        assert f"max(180px, {tile}px, " in page


def test_a_page_escapes_names_and_tells_what_is_known(made: Run) -> None:
    view = GalleryView(("sre2l",), (0,), order="own_loss")
    classes = [type(info)(info.index, info.folder, "<b>zero") for info in DIGITS.classes]
    page = gallery_html(panels(made, view), view, classes)
    assert "<b>" not in page
    assert "BN teachers of the unit: test_resnet, test_byobnet" in page
    assert page.count('role="img" tabindex="0"') == 3
    assert page.count("cross-entropy of the primary on this image") == 3
    assert "figure:focus::after { content: attr(aria-label);" in page


@pytest.mark.parametrize("before", [False, True])
def test_a_contact_sheet_repeats_pixels_and_nothing_else(made: Run, before: bool) -> None:
    view = GalleryView(("sre2l", REFERENCE), (2,), side=24, before=before)
    found = panels(made, view)
    sheet = np.array(Image.open(BytesIO(contact_sheet_png(found, view).content)))
    width = 24 * (1 + before)
    second = HEAD + 24 + 2 * GAP
    for panel, top in ((found[0], HEAD), (found[1], second + HEAD)):
        for i, image in enumerate(panel.images):
            left = i * ((width if panel.before is not None else 24) + GAP)
            left += 24 if panel.before is not None else 0
            cut = sheet[top : top + 24, left : left + 24]
            assert (cut == image.permute(1, 2, 0).numpy().repeat(3, 0).repeat(3, 1)).all()


def test_a_page_holds_no_more_than_a_browser_bears(
    made: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = GalleryView(("sre2l",), tuple(range(10)), side=64, per_page=1000)
    assert per_page(made, view) == 1000
    monkeypatch.setattr("prism_nb.viz.figures.gallery._MOST_PIXELS", 12 * 8 * 8)
    assert per_page(made, view) == 12
    assert per_page(made, replace(view, before=True)) == 6
    assert per_page(made, replace(view, side=4)) == 48
    assert len(shown(made, per_page=1000)) == 12


# -- the widget ------------------------------------------------------------------------------


def test_the_widget_turns_pages_sorts_and_saves(made: Run) -> None:
    gallery = Gallery(made)
    assert gallery.value.methods == (REFERENCE, "sre2l", "random_real")
    assert gallery.value.classes == (0,)
    gallery.methods.value = ("sre2l",)
    gallery.classes.value = "all classes"
    gallery.per_page.value = 20
    assert gallery.page_number.value == "page 1 of 2"
    assert gallery.back.disabled
    gallery.forward.click()
    assert gallery.page_number.value == "page 2 of 2"
    assert gallery.forward.disabled
    assert gallery.picture.value.count("<figure") == 10
    gallery.order.value = "unit_loss"
    assert gallery.value.page == 0
    gallery.save.click()
    assert "figures/gallery_all_by_unit_loss_page1.png" in gallery.status.value
    saved = Image.open(made.file("figures/gallery_all_by_unit_loss_page1.png"))
    assert saved.format == "PNG"


def test_the_widget_says_what_it_cannot_show(begun: Run) -> None:
    gallery = Gallery(begun)
    gallery.methods.value = ("sre2l",)
    assert "no units yet: run notebook 02" in gallery.picture.value
    gallery.save.click()
    assert "Not saved: there is no image" in gallery.status.value
    gallery.classes.value = "<i>"
    assert "no class" in gallery.status.value
    assert "<i>" not in gallery.status.value
    gallery.classes.value = "zero"
    assert gallery.status.value == ""
    gallery.methods.value = ()
    assert "at least one" in gallery.picture.value
