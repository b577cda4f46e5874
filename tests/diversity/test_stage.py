"""Records of the diversity stage: what is compared with what, and what is undefined."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prism_nb.core import fileio
from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.core.unit_plan import diversity_unit
from prism_nb.diversity import stage
from prism_nb.diversity.features import RealFeatures
from prism_nb.diversity.metrics import (
    METRICS,
    density_coverage,
    intra_class_cosine,
    kid,
    metrics_of,
    neighbour_radii,
    vendi_score,
)
from prism_nb.diversity.stage import metrics_in_space, teacher_agreement

TWO = ("2 images per class", "2 recognised images per class")


def real_class(others: int, *, reference: int = 2, seed: int = 0) -> RealFeatures:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(reference + others, 4, generator=generator)
    indices = 100 + np.arange(len(features))
    return RealFeatures(reference, indices, features, neighbour_radii(features[reference:]))


def outputs(classes: int, n: int, seed: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(classes, n, 4, generator=generator)
    return features, torch.randn(classes, n, classes, generator=generator)


def measure(
    features: Tensor, logits: Tensor, real: tuple[RealFeatures, ...], *, is_reference: bool = False
) -> dict[str, Any]:
    classes: Iterator[tuple[Tensor, Tensor]] = zip(features, logits, strict=True)
    return metrics_in_space(classes, range(len(features)), real, is_reference=is_reference)


def undefined(record: dict[str, Any]) -> set[str]:
    return {name for name, summary in record["metrics"].items() if summary["mean"] is None}


def test_every_class_has_its_value_and_means_are_over_classes() -> None:
    features, logits = outputs(3, 4)
    real = tuple(real_class(9, seed=c) for c in range(3))
    found = measure(features, logits, real)["metrics"]
    assert found.keys() == {metric.name for metric in metrics_of("class", "set")}
    vendi = [vendi_score(rows) for rows in features]
    assert found["vendi"]["per_class"] == pytest.approx(vendi)
    assert found["vendi"]["mean"] == pytest.approx(sum(vendi) / 3)
    assert found["vendi_per_image"]["mean"] == pytest.approx(sum(vendi) / 12)
    both = [
        density_coverage(f, r.others, neighbour_radii(r.others))
        for f, r in zip(features, real, strict=True)
    ]
    for place, name in enumerate(("density", "coverage")):
        assert found[name]["per_class"] == pytest.approx([pair[place] for pair in both])
    hits = (logits.argmax(-1) == torch.arange(3)[:, None]).double().mean(1)
    assert found["recognised"]["per_class"] == pytest.approx(hits.tolist())
    few = {c for c, share in enumerate(hits) if 4 * share < 2}
    for name, summary in found.items():
        left_out = few if name == "cosine_recognised" else set()
        assert {c for c, v in enumerate(summary["per_class"] or []) if v is None} == left_out, name


def test_copies_of_training_images_are_found_by_index() -> None:
    real = (real_class(9, seed=0), real_class(9, seed=1))
    copies = torch.stack([real[0].features[[1, 6]], 2 * real[1].features[[10, 0]]])
    found = measure(copies, outputs(2, 2)[1], real)
    assert found["nearest_real"]["index"] == [101, 106, 110, 100]
    assert found["nearest_real"]["distance"] == pytest.approx([0] * 4, abs=1e-9)
    assert found["metrics"]["nearest_real"]["mean"] == pytest.approx(0, abs=1e-9)


def test_the_reference_is_not_found_as_its_own_copy() -> None:
    real = (real_class(9, seed=0), real_class(9, seed=1))
    reference = torch.stack([found.features[:2] for found in real])
    found = measure(reference, outputs(2, 2)[1], real, is_reference=True)["nearest_real"]
    assert all(index >= 102 for index in found["index"])
    assert min(found["distance"]) > 0.01


def test_kid_takes_the_same_share_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    features, logits = outputs(3, 4)
    real = tuple(real_class(9, seed=c) for c in range(3))
    monkeypatch.setattr(stage, "_SET_IMAGES", 8)  # 10,000 images would make a slow test
    found = measure(features, logits, real)["metrics"]["kid"]
    mine, others = features[:, :2].flatten(0, 1), torch.cat([each.others[:2] for each in real])
    assert found["mean"] == pytest.approx(kid(mine, others))
    assert found["per_class"] is None


def test_diversity_of_the_recognised_images_is_that_of_a_set_without_the_others() -> None:
    features, _ = outputs(3, 5)
    logits = torch.zeros(3, 5, 3)
    logits[0, :4, 0] = logits[1, 2, 1] = logits[2, 3, 1] = 1  # 4, 1 and 0 are recognised
    logits[0, 4, 1] = logits[1, :2, 0] = logits[1, 3:, 0] = logits[2, :3, 0] = logits[2, 4, 0] = 1
    found = measure(features, logits, ())["metrics"]
    assert found["vendi_recognised"]["per_class"] == [vendi_score(features[0, :4]), 1, 0]
    assert found["cosine_recognised"]["per_class"] == [
        intra_class_cosine(features[0, :4]),
        None,
        None,
    ]


# -- undefined values ------------------------------------------------------------------------


def test_one_image_per_class_has_fidelity_but_no_diversity() -> None:
    features, logits = outputs(3, 1)
    found = measure(features, logits, tuple(real_class(9, reference=1, seed=c) for c in range(3)))
    expected = {m.name for m in METRICS.values() if m.needs in TWO}
    assert undefined(found) == expected
    for name in expected:
        summary = found["metrics"][name]
        assert (summary["mean"], summary["per_class"]) == (None, [None] * 3)
        assert summary["undefined"].startswith(tuple(f"needs {needs}" for needs in TWO))


def test_the_first_class_left_out_is_named() -> None:
    features, logits = outputs(3, 4)
    found = measure(features, logits, (real_class(9), real_class(5), real_class(2)))
    density = found["metrics"]["density"]
    assert density["per_class"] == [density["mean"], None, None]
    assert density["undefined"].startswith("2 of 3 classes left out, first 1: needs 6 real")


def test_without_other_real_images_the_rest_is_defined() -> None:
    features, logits = outputs(2, 4)
    real = tuple(real_class(0, reference=4, seed=c) for c in range(2))
    found = measure(features, logits, real, is_reference=True)
    assert undefined(found) == {"density", "coverage", "nearest_real", "kid"}
    assert found["nearest_real"] == {"distance": [None] * 8, "index": [None] * 8}


# A metric of a class may also use what a network's outputs do not decide, such as pixels.
_OF_OUTPUTS = (
    *("cosine", "centroid_cosine", "vendi", "vendi_per_image", "radius", "nearest_in_class"),
    *("density", "coverage", "nearest_real", "recognised", "confidence"),
)


def test_a_class_that_is_not_finite_is_left_out_of_json() -> None:
    features, logits = outputs(3, 4)
    features[1, 2, 0], logits[1, 2, 0] = math.nan, math.inf
    found = measure(features, logits, tuple(real_class(9, seed=c) for c in range(3)))
    for name in _OF_OUTPUTS:
        values = found["metrics"][name]["per_class"]
        assert [value is None for value in values] == [False, True, False], name
    assert found["metrics"]["kid"]["mean"] is None
    assert found["nearest_real"]["index"].count(None) == 1
    assert json.loads(fileio.json_bytes(found)) == found


def test_agreement_is_summarised_by_class() -> None:
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    both = teacher_agreement(logits.unbind(1))
    same = (logits[0].argmax(-1) == logits[1].argmax(-1)).double().mean(1)
    assert both["all_agree"]["per_class"] == pytest.approx(same.tolist())
    alone = teacher_agreement(logits[:1].unbind(1))
    assert alone.keys() == {metric.name for metric in metrics_of("teachers")}
    for summary in alone.values():
        assert summary["mean"] is None
        assert summary["undefined"].startswith("needs 2 teachers in the pool")


# -- the unit --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{"real_per_class": 7}, {"teachers": ["test_resnet", "test_byobnet"]}]
)
def test_what_is_compared_with_decides_the_unit(run: Run, changes: dict[str, Any]) -> None:
    other = Run(run.path, load_settings("digits_quick", changes))
    for name in (REFERENCE, "random_real"):
        units = [diversity_unit(each, name, 10) for each in (run, other)]
        assert units[0].fingerprint != units[1].fingerprint
