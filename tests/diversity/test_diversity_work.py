"""The diversity stage: what is compared with what, what is undefined, records and tables."""

import json
import math
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from prism_nb.core import fileio
from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.unit_plan import diversity_unit, image_path
from prism_nb.data.distilled import load_images
from prism_nb.data.registry import open_dataset
from prism_nb.data.small import Digits
from prism_nb.diversity import features as feature_module
from prism_nb.diversity import stage
from prism_nb.diversity import stage as measuring
from prism_nb.diversity.features import RealFeatures, real_features, real_set
from prism_nb.diversity.metrics import (
    KID,
    METRICS,
    OF_CLASSES,
    OF_TEACHERS,
    density_coverage,
    kid,
    neighbour_radii,
    vendi_score,
)
from prism_nb.diversity.stage import metrics_in_space, teacher_agreement
from prism_nb.models.pool import dataset_preprocess
from prism_nb.models.teacher import Teacher
from prism_nb.viz import tables
from prism_nb.viz.figures.gallery import near_duplicate_sheet
from prism_nb.viz.figures.run import diversity_figure

DIGITS = Digits(8)
SPACE = "test_mambaout"


def linear_teacher(name: str) -> Teacher:
    """Return a network whose penultimate features are the pixels themselves."""
    torch.manual_seed(sum(name.encode()))
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    space = dataset_preprocess(DIGITS)
    return Teacher(name, network, own=space, canonical=space)


def real_class(others: int, *, reference: int = 2, seed: int = 0) -> RealFeatures:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(reference + others, 4, generator=generator)
    places = 100 + np.arange(len(features))
    return RealFeatures(reference, places, features, neighbour_radii(features[reference:]))


def outputs(classes: int, n: int, seed: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(classes, n, 4, generator=generator)
    return features, torch.randn(classes, n, classes, generator=generator)


def pairs(features: Tensor, logits: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Return the classes of tensors [classes, n, ...] one by one, as the stage sees them."""
    return zip(features, logits, strict=True)


# -- the real images -------------------------------------------------------------------------


def test_the_reference_comes_first_and_is_not_among_the_others(tmp_path: Path) -> None:
    settings = load_settings("digits_quick", {"image_size": 8, "ipc": 3, "seed": 7})
    reference, _ = load_images(Run(tmp_path, settings), "real", DIGITS)
    teacher = linear_teacher("net")
    real = real_features(DIGITS, teacher, reference=3, most=20, seed=7)
    first = np.concatenate([found.places[:3] for found in real]).tolist()
    assert torch.equal(DIGITS.images("train", first), reference)
    for c, found in enumerate(real):
        assert len(set(found.places.tolist())) == len(found.places) == 23
        assert set(DIGITS.labels("train")[found.places]) == {c}
        pixels = DIGITS.normalize(DIGITS.images("train", found.places.tolist()))
        torch.testing.assert_close(found.features, pixels.flatten(1))
        assert torch.equal(found.others, found.features[3:])


def test_a_small_class_gives_what_it_has() -> None:
    real = real_features(DIGITS, linear_teacher("net"), reference=5, most=500, seed=0)
    counts = np.bincount(DIGITS.labels("train")).tolist()
    assert [len(found.places) for found in real] == counts
    assert [len(found.others) for found in real] == [count - 5 for count in counts]


def test_the_real_images_are_looked_at_once_per_network() -> None:
    teacher, calls = linear_teacher("net"), []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        real_features(DIGITS, teacher, reference=2, most=10, seed=0)
    assert len(calls) == len(DIGITS.classes)


def test_the_set_for_kid_has_equally_many_of_each_class_and_none_of_the_reference() -> None:
    real = (real_class(8, seed=0), real_class(3, seed=1))
    both = real_set(real, 10)
    assert torch.equal(both, torch.cat([real[0].features[2:7], real[1].features[2:]]))
    assert len(real_set(real, 1)) == 2


# -- one set of images -----------------------------------------------------------------------


def test_means_are_over_classes_and_each_value_is_its_own_classs() -> None:
    features, logits = outputs(3, 4)
    real = tuple(real_class(9, seed=c) for c in range(3))
    found = metrics_in_space(pairs(features, logits), real, is_reference=False)["measures"]
    assert found.keys() == {KID.name, *(m.name for m in OF_CLASSES)}
    vendi = [vendi_score(f) for f in features]
    assert found["vendi"]["per_class"] == pytest.approx(vendi)
    assert found["vendi"]["mean"] == pytest.approx(sum(vendi) / 3)
    assert found["vendi_per_image"]["mean"] == pytest.approx(sum(vendi) / 12)
    coverage = [
        density_coverage(f, r.features[2:], neighbour_radii(r.features[2:]))[1]
        for f, r in zip(features, real, strict=True)
    ]
    assert found["coverage"]["per_class"] == pytest.approx(coverage)
    named = (logits.argmax(-1) == torch.arange(3)[:, None]).double().mean(1)
    assert found["recognised"]["per_class"] == pytest.approx(named.tolist())
    assert all(summary["undefined"] is None for summary in found.values())


def test_copies_of_training_images_are_found_by_their_places() -> None:
    real = (real_class(9, seed=0), real_class(9, seed=1))
    copies = torch.stack([real[0].features[[1, 6]], 2 * real[1].features[[10, 0]]])
    found = metrics_in_space(pairs(copies, outputs(2, 2)[1]), real, is_reference=False)
    assert found["nearest_real"]["place"] == [101, 106, 110, 100]
    assert found["nearest_real"]["distance"] == pytest.approx([0] * 4, abs=1e-9)
    assert found["measures"]["nearest_real"]["mean"] == pytest.approx(0, abs=1e-9)


def test_the_reference_is_not_found_as_its_own_copy() -> None:
    real = (real_class(9, seed=0), real_class(9, seed=1))
    reference = torch.stack([found.features[:2] for found in real])
    found = metrics_in_space(pairs(reference, outputs(2, 2)[1]), real, is_reference=True)[
        "nearest_real"
    ]
    assert all(place >= 102 for place in found["place"])
    assert min(found["distance"]) > 0.01


def test_one_image_per_class_has_fidelity_but_no_diversity() -> None:
    features, logits = outputs(3, 1)
    real = tuple(real_class(9, reference=1, seed=c) for c in range(3))
    found = metrics_in_space(pairs(features, logits), real, is_reference=False)["measures"]
    undefined = {name for name, summary in found.items() if summary["mean"] is None}
    assert undefined == {
        "cosine",
        "centroid_cosine",
        "vendi",
        "vendi_per_image",
        "radius",
        "nearest_within",
    }
    for name in undefined:
        words = "needs 2 images per class, and the number here is 1"
        assert found[name] == {"mean": None, "per_class": [None] * 3, "undefined": words}


def test_a_class_of_few_real_images_is_left_out_by_name() -> None:
    features, logits = outputs(3, 4)
    real = (real_class(9), real_class(5), real_class(6))
    density = metrics_in_space(pairs(features, logits), real, is_reference=False)["measures"][
        "density"
    ]
    assert [value is None for value in density["per_class"]] == [False, True, False]
    assert density["mean"] == pytest.approx((density["per_class"][0] + density["per_class"][2]) / 2)
    assert density["undefined"] == (
        "1 of 3 classes left out, first 1: needs 6 real training images per class beside the "
        "reference, and the number here is 5"
    )


def test_of_several_classes_left_out_the_first_is_named() -> None:
    features, logits = outputs(3, 4)
    real = (real_class(9), real_class(2), real_class(5))
    words = metrics_in_space(pairs(features, logits), real, is_reference=False)["measures"][
        "coverage"
    ]
    assert words["undefined"].startswith("2 of 3 classes left out, first 1: needs 6")
    assert words["undefined"].endswith("number here is 2")


def test_no_other_real_images_leave_what_needs_none() -> None:
    features, logits = outputs(2, 4)
    real = tuple(real_class(0, reference=4, seed=c) for c in range(2))
    found = metrics_in_space(pairs(features, logits), real, is_reference=True)
    undefined = {name for name, s in found["measures"].items() if s["mean"] is None}
    assert undefined == {"density", "coverage", "nearest_real", "kid"}
    assert "needs 1 real" in found["measures"]["nearest_real"]["undefined"]
    assert "needs 2 real training images in all" in found["measures"]["kid"]["undefined"]
    assert found["nearest_real"] == {"distance": [None] * 8, "place": [None] * 8}


def test_a_class_that_is_not_finite_is_left_out_and_the_record_is_json() -> None:
    features, logits = outputs(3, 4)
    features[1, 2, 0], logits[1, 2, 0] = math.nan, math.inf
    real = tuple(real_class(9, seed=c) for c in range(3))
    found = metrics_in_space(pairs(features, logits), real, is_reference=False)
    for measure in OF_CLASSES:
        summary = found["measures"][measure.name]
        assert [value is None for value in summary["per_class"]] == [False, True, False]
        assert "outputs are not finite" in summary["undefined"]
    assert found["measures"]["kid"]["mean"] is None
    assert json.loads(fileio.json_bytes(found)) == found


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_images_are_looked_at_in_whole_classes_and_few_at_a_time(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_module, "_AT_ONCE", at_once)
    teacher, sizes = linear_teacher("net"), []
    pixels = DIGITS.images("train", range(30))

    def see(some: Tensor) -> tuple[Tensor, ...]:
        sizes.append(len(some))
        return feature_module.features_and_logits(teacher, some, DIGITS)

    seen = list(feature_module.iter_classes(see, pixels, 10))
    assert max(sizes) == min(30, max(3, at_once // 3 * 3))
    assert sum(sizes) == 30
    both = [torch.cat(each) for each in zip(*seen, strict=True)]
    assert [len(features) for features, _ in seen] == [3] * 10
    torch.testing.assert_close(both[0], feature_module.features_of(teacher, pixels, DIGITS))
    torch.testing.assert_close(both[1], feature_module.logits_of(teacher, pixels, DIGITS))


def test_kid_takes_the_same_share_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    features, logits = outputs(3, 4)
    real = tuple(real_class(9, seed=c) for c in range(3))
    monkeypatch.setattr(measuring, "_KID_MOST", 8)
    found = metrics_in_space(pairs(features, logits), real, is_reference=False)["measures"]["kid"]
    wanted = kid(features[:, :2].flatten(0, 1), real_set(real, 8))
    assert found["mean"] == pytest.approx(wanted)


def test_agreement_needs_two_teachers_and_finite_logits() -> None:
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    both = teacher_agreement(logits.unbind(1))
    same = (logits[0].argmax(-1) == logits[1].argmax(-1)).double().mean(1)
    assert both["all_agree"]["per_class"] == both["pairs_agree"]["per_class"]
    assert both["all_agree"]["per_class"] == pytest.approx(same.tolist())
    alone = teacher_agreement(logits[:1].unbind(1))
    assert {m.name for m in OF_TEACHERS} == set(alone)
    words = "needs 2 teachers in the pool, and the number here is 1"
    assert all(s["undefined"] == words and s["mean"] is None for s in alone.values())
    logits[0, 1] = math.nan
    assert teacher_agreement(logits.unbind(1))["divergence"]["per_class"][1] is None


# -- a run -----------------------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run of one method, made of the tenth and eleventh training image of each class."""
    monkeypatch.setattr(stage, "load_teacher", lambda run, name: linear_teacher(name))
    changes: dict[str, Any] = {"image_size": 8, "methods": ["prism"], "real_per_class": 150}
    run = Run.create(tmp_path / "r", load_settings("digits_quick", changes))
    dataset = open_dataset(run.settings)
    run.write_classes(dataset.class_records())
    for c in range(10):
        for image_index, place in enumerate(dataset.class_indices("train", c)[10:12]):
            path = run.file(image_path("prism", c, image_index))
            path.parent.mkdir(parents=True, exist_ok=True)
            (pixels,) = dataset.images("train", [int(place)]).permute(0, 2, 3, 1).numpy()
            Image.fromarray(pixels).save(path)
    for name in (REFERENCE, "prism"):
        stage.run_unit(run, diversity_unit(run, name, 10), lambda event: None)
    return run


def test_tables_show_what_was_recorded(measured: Run) -> None:
    table = tables.diversity_space_table(measured, SPACE)
    assert list(table.index) == ["Real images", "PRISM"]
    record = measured.record(diversity_unit(measured, "prism", 10))["spaces"][SPACE]["measures"]
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


def test_the_radius_is_compared_over_the_classes_that_both_have(measured: Run) -> None:
    per_class = tables.diversity_per_class(measured)
    radius = {m: g["radius"].mean() for m, g in per_class.groupby("method")}
    ratio = tables.diversity_space_table(measured, SPACE).loc["PRISM", tables.RATIO]
    assert ratio == pytest.approx(radius["prism"] / radius[REFERENCE])


def test_nearest_images_are_named_and_shown(measured: Run) -> None:
    nearest = tables.nearest_table(measured, SPACE)
    assert list(nearest["distance"]) == sorted(nearest["distance"])
    assert len(nearest) == 2 * 20
    mine = nearest[nearest["method"] == "prism"]
    dataset = open_dataset(measured.settings)
    for row in mine.to_dict("records"):
        assert (
            row["training image"]
            == dataset.class_indices("train", row["class"])[10 + row["image_index"]]
        )
        assert row["name"] == dataset.classes[row["class"]].name
    with pytest.raises(ValueError, match="no nearest training image is known for 'sre2l'"):
        near_duplicate_sheet(measured, "sre2l", nearest)


def test_a_picture_shows_each_image_above_its_copy(measured: Run) -> None:
    nearest = tables.nearest_table(measured, SPACE)
    made, _ = load_images(measured, "prism", open_dataset(measured.settings))
    mine = nearest[nearest["method"] == "prism"].head(5)
    picture = near_duplicate_sheet(measured, "prism", nearest, most=5)
    sheet = np.array(Image.open(BytesIO(picture.content)))
    zoom = sheet.shape[0] // 18  # two rows of 8 pixels, and 2 between them
    above, below = sheet[: 8 * zoom : zoom, ::zoom], sheet[10 * zoom :: zoom, ::zoom]
    assert (above == below).all()
    for place, (c, image_index) in enumerate(zip(mine["class"], mine["image_index"], strict=True)):
        shown = torch.from_numpy(above[:, 10 * place : 10 * place + 8]).permute(2, 0, 1)
        assert torch.equal(shown, made[2 * c + image_index])


def test_every_measure_can_be_drawn_class_by_class(measured: Run) -> None:
    per_class = tables.diversity_per_class(measured)
    titles = {REFERENCE: "Real images", "prism": "PRISM"}
    for measure in OF_CLASSES:
        wide = tables.class_table(per_class, measure.name, titles)
        assert list(wide.columns) == ["Real images", "PRISM"]
        assert list(wide.index) == [info.name for info in DIGITS.classes]
        lines = diversity_figure(per_class, titles, measure).data
        factor = 100 if measure.percent else 1
        for line in lines:
            assert list(line.y) == pytest.approx(list(factor * wide[line.name]))


def test_classes_of_one_name_stay_apart() -> None:
    frame = pd.DataFrame({"method": ["a", "a"], "class": ["crane", "crane"], "cosine": [0.1, 0.3]})
    wide = tables.class_table(frame, "cosine", {"a": "A"})
    assert wide["A"].tolist() == [0.1, 0.3]


def test_undefined_measures_are_explained(measured: Run) -> None:
    unit = diversity_unit(measured, "prism", 10)
    record = measured.record(unit)
    space = record["spaces"][SPACE]["measures"]
    for name in ("cosine", "vendi"):
        space[name] = {"mean": None, "per_class": [None] * 10, "undefined": "needs more"}
    measured.finish(unit, paths=[], record=record)
    (row,) = tables.undefined_table(measured).to_dict("records")
    assert (row["images"], row["seen by"]) == ("PRISM", SPACE)
    assert row["measures"] == "intra-class cosine, Vendi score"
    assert row["undefined because"] == "needs more"
    assert math.isnan(tables.diversity_space_table(measured, SPACE).loc["PRISM", "Vendi score ↑"])
    assert tables.diversity_per_class(measured)["cosine"].isna().sum() == 10


@pytest.mark.parametrize(
    "changes", [{"real_per_class": 7}, {"teachers": ["test_resnet", "test_byobnet"]}]
)
def test_what_is_compared_with_binds_the_unit(run: Run, changes: dict[str, Any]) -> None:
    other = Run(run.path, load_settings("digits_quick", changes))
    for name in (REFERENCE, "random_real"):
        assert (
            diversity_unit(run, name, 10).fingerprint != diversity_unit(other, name, 10).fingerprint
        )


def test_more_real_images_may_be_asked_for_at_any_time_and_are_measured(measured: Run) -> None:
    changes = {"image_size": 8, "methods": ["prism"], "real_per_class": 10}
    fewer = measured.with_settings(load_settings("digits_quick", changes))
    assert fewer.inspect(diversity_unit(measured, "prism", 10)).state == "done"
    assert fewer.inspect(diversity_unit(fewer, "prism", 10)).state == "other settings"
