"""The relabel stage: stored and online labels agree, and finished epochs are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import label_fingerprint, label_path, label_unit
from prism_nb.data.augment import epoch_params, identity_params, render
from prism_nb.data.dataset import ClassInfo
from prism_nb.evaluation import relabel, student
from prism_nb.evaluation.label_store import EpochLabels, LabelStore
from prism_nb.evaluation.relabel import order_warning
from prism_nb.evaluation.student import load_student_data
from prism_nb.models.ensemble import EnsembleLabeler
from prism_nb.viz.tables import order_warnings
from tests.helpers.image_sets import begin_run, write_set
from tests.helpers.teachers import teacher_of

CPU = torch.device("cpu")
METHOD, COUNT = "random_real", 20
LABELS = {"label_epochs": 3, "label_batch": 7, "student_epochs": 3, "progress": False}


@pytest.fixture(autouse=True)
def _networks_of_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    teachers = [teacher_of(name, size=16) for name in ("test_resnet", "test_byobnet")]
    for module in (relabel, student):
        monkeypatch.setattr(
            module, "load_labeler", lambda run: EnsembleLabeler(run.settings, teachers, [0.9, 0.8])
        )


def begin(folder: Path, name: str, **changes: Any) -> Run:
    """Begin a run that has images and needs no trained networks."""
    return begin_run(
        folder, name, teachers=["test_resnet", "test_byobnet"], **{**LABELS, **changes}
    )


def execute(run: Run) -> list[dict[str, Any]]:
    """Label the run's images, and return the events."""
    events: list[dict[str, Any]] = []
    relabel.run_unit(run, label_unit(run, METHOD, 10), events.append)
    return events


def epochs_of(run: Run, variant: str = "protocol") -> list[EpochLabels]:
    """Return the labels that a student of the run learns from, by epoch."""
    data = load_student_data(run, METHOD, variant, CPU)
    return [data.labels_of(epoch) for epoch in range(run.settings.epochs)]


def same(a: EpochLabels, b: EpochLabels) -> bool:
    params = zip(vars(a.params).values(), vars(b.params).values(), strict=True)
    assert a.logits is not None
    assert b.logits is not None
    return all(torch.equal(x, y) for x, y in params) and torch.equal(a.logits, b.logits)


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_online_labels_equal_those_stored_in_fp32(tmp_path: Path, statistics: str) -> None:
    changes = {"label_format": "fp32", "label_statistics": statistics}
    stored = begin(tmp_path, "stored", **changes)
    steps = [event["step"] for event in execute(stored)]
    online = begin(tmp_path, "online", labels="online", **changes)
    assert not execute(online)
    assert steps == [1, 2, 3]
    assert not list(online.path.glob("labels/*/*.safetensors"))
    pairs = zip(epochs_of(stored), epochs_of(online), strict=True)
    assert [same(a, b) for a, b in pairs] == [True] * 3


def test_the_accuracy_of_each_teacher_is_recorded(tmp_path: Path) -> None:
    run = begin(tmp_path, "a")
    execute(run)
    data = load_student_data(run, METHOD, "no_aug", CPU)
    record, hits = run.units.record(label_unit(run, METHOD, 10)), []
    for name in ("test_resnet", "test_byobnet"):
        logits = teacher_of(name, size=16)(data.images[torch.arange(COUNT)])
        hits.append(float((logits.argmax(1) == data.classes).float().mean()))
    assert record["teachers"] == ["test_resnet", "test_byobnet"]
    assert record["teacher_accuracy"] == pytest.approx(hits)
    logits = data.labels_of(0).logits
    assert logits is not None
    hit = (logits.argmax(1) == data.classes).float().mean()
    assert record["ensemble_accuracy"] == pytest.approx(float(hit))


@pytest.mark.parametrize(
    ("ipc", "accuracy", "is_said"), [(1, 1.0, False), (2, 0.9, True), (10, 0.75, True)]
)
@pytest.mark.parametrize("count", [4, 50])
def test_classes_in_another_order_are_said(
    count: int, ipc: int, accuracy: float, is_said: bool
) -> None:
    classes = [ClassInfo(index, f"c{index}", "") for index in range(count)]
    random = np.random.default_rng(0)
    labels = np.arange(count).repeat(ipc)
    guesses = random.integers(0, count, len(labels))
    seen = np.where(np.arange(len(labels)) < accuracy * len(labels), labels, guesses)
    assert order_warning(classes, seen, labels) is None
    assert order_warning(classes, guesses, labels) is None
    text = order_warning(classes, (seen + 1) % count, labels)
    assert (text is not None) == is_said
    assert text is None or "take class 0 ('c0') for class 1 ('c1')" in text


def test_the_order_of_an_imported_set_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard = {"labels": "hard", "student_loss": "ce", "eval_variants": ["protocol"]}
    folder = write_set(tmp_path / "set", "new{c:03d}/class{c:03d}_id{s:03d}.png", ipc=2)
    recipes = {"theirs": {"base": "imported", "source": str(folder)}}
    run = begin(tmp_path, "a", methods=[METHOD, "theirs"], recipes=recipes, **hard)
    backwards = np.arange(10)[::-1].repeat(2)
    found = {"teachers": [], "teacher_accuracy": [], "ensemble_accuracy": 0.0}
    monkeypatch.setattr(relabel, "_teacher_accuracy", lambda *_: (found, backwards))
    for method in run.settings.methods:
        relabel.run_unit(run, label_unit(run, method, 10), lambda _: None)
    (text,) = order_warnings(run)
    assert text.startswith("theirs: its classes seem to be in another order")
    assert "20 of 20 images fit such an order, 0 the dataset's" in text


def test_epochs_of_an_interrupted_unit_are_kept(tmp_path: Path) -> None:
    run = begin(tmp_path, "a")
    params, logits = epoch_params(run.settings, COUNT, 1, CPU), torch.randn(COUNT, 10)
    LabelStore(run, METHOD).save(1, params, [(torch.arange(COUNT), logits)])
    before = run.file(label_path(METHOD, 1)).read_bytes()
    execute(run)
    assert run.file(label_path(METHOD, 1)).read_bytes() == before
    assert len(list(run.path.glob("labels/*/*.safetensors"))) == 3


def test_stored_epochs_are_cycled_with_the_same_views_in_all_variants(tmp_path: Path) -> None:
    run = begin(tmp_path, "a", cycle_labels=True, student_epochs=5)
    execute(run)
    soft, hard = epochs_of(run), epochs_of(run, "hard_labels")
    assert same(soft[0], soft[3])
    assert same(soft[1], soft[4])
    assert not same(soft[0], soft[1])
    assert all(labels.logits is None for labels in hard)
    for a, b in zip(soft, hard, strict=True):
        assert torch.equal(a.params.crop, b.params.crop)


def test_hard_labels_need_no_files(tmp_path: Path) -> None:
    run = begin(tmp_path, "a", labels="hard", student_loss="ce")
    execute(run)
    assert not list(run.path.glob("labels/*/*.safetensors"))
    assert all(labels.logits is None for labels in epochs_of(run))


def test_without_augmentation_images_are_labelled_as_they_are(tmp_path: Path) -> None:
    run = begin(tmp_path, "a")
    first, second, _ = epochs_of(run, "no_aug")
    assert same(first, second)
    rows = torch.arange(COUNT)
    images = load_student_data(run, METHOD, "no_aug", CPU).images
    assert torch.allclose(render(images, first.params, rows), images[rows], atol=1e-5)
    assert torch.equal(first.params.crop, identity_params(COUNT, 16, CPU).crop)


def test_students_decide_nothing_about_labels() -> None:
    changes = {"student_epochs": 7, "cycle_labels": True, "student_lr": 0.5}
    settings = [load_settings("digits_quick", {**LABELS, **more}) for more in ({}, changes)]
    assert len({label_fingerprint(each, METHOD, COUNT) for each in settings}) == 1
