"""The inspector shows of each image what is on record, from the right place."""

import json
import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prism_nb.core.config import load_settings
from prism_nb.core.fileio import write_bytes
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of, diversity_unit, image_path, method_units
from prism_nb.data.distilled import load_subset
from prism_nb.data.image_io import encode_image
from prism_nb.data.registry import open_dataset
from prism_nb.diversity import stage
from prism_nb.diversity.predictions import predict, predictions_path
from prism_nb.synthesis.init import initial_images_uint8
from prism_nb.viz.figures.gallery import image_sheet
from prism_nb.viz.inspector import image_deck, image_facts, sheet_html
from tests.helpers.linear_teacher import DIGITS, linear_teacher
from tests.helpers.synthesis_run import write_previews

SPACE = "test_mambaout"
KEYS = [(7, 0), (2, 1)]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A measured run whose images, all different, are two per class of SRe2L."""
    monkeypatch.setattr(stage, "load_teacher", lambda run, name: linear_teacher(name))
    changes = {"image_size": 8, "methods": ["sre2l"], "ipc": 2, "recipe": {"init": "noise"}}
    run = Run.create(tmp_path / "r", load_settings("digits_quick", changes))
    run.write_classes(open_dataset(run.settings).class_records())
    for name in load_settings("digits_quick").plain()["teachers"]:
        write_bytes(run.file(f"teachers/units/{name}.json"), b'{"files": {}}')
    for unit in method_units(run, "sre2l", 10):
        paths = []
        for c, index in batch_of(unit).members():
            paths.append(image_path("sre2l", c, index))
            noise = np.random.default_rng(10 * index + c).integers(0, 256, (3, 8, 8), np.uint8)
            write_bytes(run.file(paths[-1]), encode_image(torch.from_numpy(noise)))
        draws = {"resample_every": 0, "bn_teachers": [["test_resnet"]]}
        record = {"losses": {"logit/test_resnet": 2.0}, "draws": draws, "images": len(paths)}
        run.units.finish(unit, paths=paths, record=record)
    stage.run_unit(run, diversity_unit(run, "sre2l", 10), lambda event: None)
    return run


def test_predictions_are_of_the_whole_head_by_class_of_the_dataset() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, 0.0, 1.0, 2.0]])
    found = predict(logits, [3, 1], torch.tensor([0, 1]))  # outputs 0 and 2 are other classes
    assert found.classes.tolist() == [[1, 0, -1], [-1, 0, -1]]
    shares = logits.softmax(1)
    assert torch.equal(found.probabilities[0], shares[0][[1, 3, 2]])
    assert found.loss.tolist() == pytest.approx(
        [-float(x.log()) for x in (shares[0, 3], shares[1, 1])]
    )


def test_facts_are_those_of_the_image(run: Run) -> None:
    pixels = load_subset(run, "sre2l", open_dataset(run.settings), KEYS)
    nearest = run.units.record(diversity_unit(run, "sre2l", 10))["spaces"][SPACE]["nearest_real"]
    for facts, image, (c, index) in zip(
        image_facts(run, "sre2l", KEYS, SPACE), pixels, KEYS, strict=True
    ):
        assert {*run.settings.teachers, SPACE} == {*facts.top}
        for name, top in facts.top.items():
            shares = linear_teacher(name)(DIGITS.normalize(image[None])).softmax(1)[0]
            assert [k for k, _ in top] == shares.topk(3).indices.tolist()
            assert [p for _, p in top] == pytest.approx(shares.topk(3).values.tolist(), rel=1e-4)
            assert facts.losses[name] == pytest.approx(-float(shares[c].log()), rel=1e-4)
        assert (facts.teachers, facts.losses["logits, its unit"]) == ("test_resnet", 2.0)
        assert facts.nearest == nearest["index"][2 * c + index]
        assert facts.distance == nearest["distance"][2 * c + index]


def test_facts_that_are_not_on_record_are_left_out(run: Run) -> None:
    run.file(predictions_path("sre2l")).write_bytes(b"damaged")
    (facts,) = image_facts(run, "sre2l", [(2, 1)], SPACE)
    assert (facts.top, facts.losses) == ({}, {"logits, its unit": 2.0})
    (beyond,) = image_facts(run, "real", [(2, 40)], SPACE)
    assert (beyond.top, beyond.nearest) == ({}, None)


def test_a_deck_has_the_growth_and_the_nearest_real_image(run: Run) -> None:
    unit = method_units(run, "sre2l", 10)[0].name
    write_previews(run, unit, 0, 10)  # of image 0 of class 3 and image 1 of class 4
    keys = [("sre2l", 4, 1), ("sre2l", 2, 1)]
    deck = image_deck(run, keys, torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    assert [item["growth"] for item in deck["items"]] == [["sre2l", 1], None]
    frames = deck["growth"]["sre2l"]
    assert [(frame["step"], frame["side"], frame["columns"]) for frame in frames] == [
        (0, 8, 2),
        (10, 8, 2),
    ]
    assert deck["initial"] is None
    assert [item["nearest"] for item in deck["items"]] == [0, 1]
    assert (deck["nearest"]["side"], deck["images"]["pitch"]) == (8, 10)


def test_a_deck_fits_its_room(run: Run) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 3, 64, 64), np.uint8)
    keys = [("sre2l", c, 0) for c in range(4)]
    deck = image_deck(run, keys, torch.from_numpy(noise), room=3 * 4 * 16**2)
    assert deck["images"]["side"] == 16
    assert deck["images"]["src"].startswith("data:image/jpeg")


def test_a_contact_sheet_opens_its_images(run: Run) -> None:
    page = sheet_html(run, "sre2l", image_sheet(run, "sre2l"), "a <sheet>")
    assert 'data-columns="2"' in page
    assert 'alt="a &lt;sheet&gt;: click' in page
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    deck = json.loads(text)
    assert deck["items"][5]["title"] == "SRe2L, 2 · two, image 1"
    first = initial_images_uint8(run, "sre2l", [(2, 1)])[0]
    sheet, place = deck["initial"], (5 % 5, 5 // 5)
    with Image.open(BytesIO(b64decode(sheet["src"].partition(",")[2]))) as picture:
        left, top = (sheet["pitch"] * each for each in place)
        cut = np.array(picture)[top : top + 8, left : left + 8]
    assert sheet["columns"] == 5
    assert (cut == first.permute(1, 2, 0).numpy()).all()
