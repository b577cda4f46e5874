"""Labels of a small run: stored, made while students learn, and what refuses to be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prism_nb.core import fileio
from prism_nb.core import unit_plan as label_plans
from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import label_fingerprint, label_path, label_paths, label_unit
from prism_nb.data.augment import epoch_params, identity_params, render
from prism_nb.data.distilled import DeviceImages
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.label_store import EpochLabels, LabelStore
from prism_nb.evaluation.student import load_student_data
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.models import ensemble as labeller_module
from prism_nb.models.ensemble import EnsembleLabeler, batch_statistics, load_labeler
from tests.helpers.teachers import teacher_of

CPU = torch.device("cpu")
METHOD = "random_real"
SMALL = {
    "methods": [METHOD],
    "teachers": ["test_resnet", "test_byobnet"],
    "squeeze_epochs": 1,
    "squeeze_batch": 256,
    "image_size": 16,
    "label_epochs": 3,
    "label_batch": 7,
    "device": "cpu",
    "progress": False,
}


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs whose networks are trained once."""
    folder = tmp_path_factory.mktemp("runs")
    begin(folder, "first")
    return folder


def begin(folder: Path, name: str, **changes: Any) -> Run:
    """Begin a run, with networks and images; equal networks are taken over from other runs."""
    settings = load_settings("digits_quick", {**SMALL, **changes})
    run = open_run_module.open_run(run_name=name, preset="digits_quick", runs_dir=folder,
                            changes={**SMALL, **changes})  # fmt: skip
    assert run.settings == settings
    for stage in ("squeeze", "synthesis"):
        pipeline.execute(run, stage)
    return run


def epochs_of(run: Run, variant: str = "protocol") -> list[EpochLabels]:
    """Return what a student of the run is told, epoch by epoch."""
    material = load_student_data(run, METHOD, variant, CPU)
    return [material.labels_of(epoch) for epoch in range(run.settings.epochs)]


def same(a: EpochLabels, b: EpochLabels) -> bool:
    views = zip(vars(a.views).values(), vars(b.views).values(), strict=True)
    assert a.logits is not None
    assert b.logits is not None
    return all(torch.equal(x, y) for x, y in views) and torch.equal(a.logits, b.logits)


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_labels_made_while_learning_equal_those_stored_in_full(
    runs_dir: Path, statistics: str
) -> None:
    changes = {"label_format": "fp32", "label_statistics": statistics}
    stored = begin(runs_dir, f"stored-{statistics}", **changes)
    pipeline.execute(stored, "relabel")
    online = begin(runs_dir, f"online-{statistics}", labels="online", **changes)
    pipeline.execute(online, "relabel")
    assert not label_paths(online.settings, METHOD)
    assert not list(online.path.glob("labels/*/*.safetensors"))
    pairs = zip(epochs_of(stored), epochs_of(online), strict=True)
    assert [same(a, b) for a, b in pairs] == [True] * 3


def test_stored_epochs_are_gone_over_again_where_that_is_asked_for(runs_dir: Path) -> None:
    run = begin(runs_dir, "again", student_epochs=5, cycle_labels=True)
    pipeline.execute(run, "relabel")
    epochs = epochs_of(run)
    assert len(list(run.path.glob("labels/*/*.safetensors"))) == 3
    assert same(epochs[0], epochs[3])
    assert same(epochs[1], epochs[4])
    assert not same(epochs[0], epochs[1])


def test_epochs_that_are_used_again_show_the_same_views_in_every_treatment(
    runs_dir: Path,
) -> None:
    ways = ["protocol", "hard_labels"]
    run = begin(runs_dir, "again", student_epochs=5, cycle_labels=True, eval_variants=ways)
    pipeline.execute(run, "relabel")
    soft, hard = epochs_of(run), epochs_of(run, "hard")
    for one, other in zip(soft, hard, strict=True):
        assert torch.equal(one.views.crop, other.views.crop)


def test_students_may_be_asked_to_train_for_longer_on_labels_that_are_there(
    runs_dir: Path,
) -> None:
    run = begin(runs_dir, "longer")
    pipeline.execute(run, "relabel")
    more = {**run.settings.plain(), "student_epochs": 7, "cycle_labels": True}
    longer = run.with_settings(Settings.parse(more, where="longer"))
    assert pipeline.plan(longer, "relabel").missing == 0


def test_what_an_interrupted_labelling_has_written_needs_no_more_room(runs_dir: Path) -> None:
    run = begin(runs_dir, "begun")
    assert pipeline._begun_bytes(run, "relabel") == 0
    save(run)
    written = run.file(label_path(METHOD, 0)).stat().st_size
    assert pipeline._begun_bytes(run, "relabel") == written
    pipeline.execute(run, "relabel")
    assert pipeline._begun_bytes(run, "relabel") == 0


def test_hard_labels_need_no_files_and_no_networks(runs_dir: Path) -> None:
    run = begin(runs_dir, "hard", labels="hard", student_loss="ce")
    pipeline.execute(run, "relabel")
    assert not list(run.path.glob("labels/*/*.safetensors"))
    assert all(labels.logits is None for labels in epochs_of(run))


def test_plain_labels_are_of_the_images_as_they_are(runs_dir: Path) -> None:
    run = begin(runs_dir, "first")
    pipeline.execute(run, "relabel")
    first, second, _ = epochs_of(run, "plain")
    assert same(first, second)
    images, classes = (load_student_data(run, METHOD, "plain", CPU).images, torch.arange(20) // 2)
    assert torch.allclose(
        render(images, first.views, torch.arange(20)), images[torch.arange(20)], atol=1e-5
    )
    known = run.record(label_unit(run, METHOD, 10))["ensemble_accuracy"]
    assert first.logits is not None
    assert float((first.logits.argmax(1) == classes).float().mean()) == pytest.approx(known)


@pytest.mark.parametrize("batch", [2, 5, 256])
def test_labels_do_not_depend_on_what_is_labelled_together(runs_dir: Path, batch: int) -> None:
    run = begin(runs_dir, "first")
    images, views = image_set(run), epoch_params(run.settings, 20, 0, CPU)
    labels, whole = (
        EnsembleLabeler(
            run.settings.replace(**{"label_batch": size}),
            load_labeler(run).teachers,
            [1.0, 1.0],
        )(images, views)
        for size in (batch, 20)
    )
    assert torch.allclose(labels, whole, atol=1e-4)


def test_labels_of_one_block_depend_on_no_size_of_blocks(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bindings() -> list[str]:
        return [label_fingerprint(settings, METHOD, count) for count in (10_000, 10_001)]

    one, two = bindings()
    monkeypatch.setattr(label_plans, "SHARD_EPOCHS", 5_000)
    halved, other = bindings()
    assert one != halved
    assert two not in {one, other}
    monkeypatch.setattr(label_plans, "SHARD_EPOCHS", 20_000)
    assert bindings() == [one, one]


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_blocks_have_every_image_once_and_all_classes_alike(
    runs_dir: Path, statistics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labeller_module, "SHARD_EPOCHS", 12)
    run = begin(runs_dir, "first")
    asked = run.settings.replace(**{"label_statistics": statistics})
    labeler = EnsembleLabeler(asked, load_labeler(run).teachers, [1.0, 1.0])
    images, views = image_set(run), epoch_params(run.settings, 20, 0, CPU)
    blocks = list(labeler.blocks(images, views))
    assert [len(rows) for rows, _ in blocks] == [10, 10]
    assert sorted(int(row) for rows, _ in blocks for row in rows) == list(range(20))
    if statistics == "running":
        assert all((rows // 2).tolist() == list(range(10)) for rows, _ in blocks)
    labels = labeler(images, views)
    for rows, logits in blocks:
        assert torch.equal(labels[rows], labeler.combine(logits))


def test_labels_of_blocks_are_those_of_the_whole_where_rows_stand_alone(
    runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(runs_dir, "first")
    asked = run.settings.replace(label_ensemble="mean")
    labeler = EnsembleLabeler(asked, load_labeler(run).teachers, [1.0, 1.0])
    images, views = image_set(run), epoch_params(run.settings, 20, 0, CPU)
    whole = labeler(images, views)
    monkeypatch.setattr(labeller_module, "SHARD_EPOCHS", 3)
    assert torch.allclose(labeler(images, views), whole, atol=1e-4)


def image_set(run: Run) -> DeviceImages:
    images = load_student_data(run, METHOD, "protocol", CPU).images
    assert isinstance(images, DeviceImages)
    return images


def test_batch_statistics_are_those_of_training_and_leave_no_trace(settings: Settings) -> None:
    teacher = teacher_of("test_resnet")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    images = torch.randn(20, 3, 32, 32)
    views = identity_params(20, 32, CPU)
    changes = {"label_statistics": "batch", "label_batch": 20, "label_teachers": ("test_resnet",)}
    labeler = EnsembleLabeler(settings.replace(**changes), [teacher], [1.0])
    ((rows, (said,)),) = labeler.blocks(images, views)
    found = said[rows.argsort()]
    after = teacher.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    torch.nn.Module.train(teacher.network, True)
    expected = teacher.network(render(images, views, torch.arange(20)))
    assert torch.allclose(found, expected, atol=1e-4)
    teacher.network.eval()
    assert not torch.allclose(found, teacher(images), atol=1e-2)


def test_batch_statistics_are_never_those_of_a_small_rest(settings: Settings) -> None:
    teacher, sizes = teacher_of("test_resnet"), list[int]()
    teacher.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    changes = {"label_statistics": "batch", "label_batch": 8, "label_teachers": ("test_resnet",)}
    labeler = EnsembleLabeler(settings.replace(**changes), [teacher], [1.0])
    labeler(torch.randn(18, 3, 32, 32), identity_params(18, 32, CPU))
    assert sizes == [6, 6, 6]


def test_batch_statistics_are_put_back_after_a_failure() -> None:
    teacher = teacher_of("test_resnet")

    def fail() -> None:
        with batch_statistics(teacher):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert all(probe.layer.running_mean is not None for probe in teacher.bn_layer_stats)


def test_labels_of_half_precision_differ_a_little_and_are_kept_in_full(
    settings: Settings,
) -> None:
    teacher = teacher_of("test_resnet")
    kinds: list[torch.dtype] = []
    teacher.network.layer1.register_forward_pre_hook(lambda _, given: kinds.append(given[0].dtype))
    torch.manual_seed(0)
    images, views = torch.randn(6, 3, 32, 32), epoch_params(settings, 6, 0, CPU)
    full, half = (
        EnsembleLabeler(settings.replace(**{"label_precision": p}), [teacher], [1.0])(images, views)
        for p in ("fp32", "bf16")
    )
    assert kinds == [torch.float32, torch.bfloat16]
    assert half.dtype == torch.float32
    assert 0 < (half - full).norm() < 0.05 * full.norm()


# -- the files -------------------------------------------------------------------------------


def save(run: Run) -> None:
    """Write an epoch's labels, the second half of the images first."""
    labels = labels_of(run)
    assert labels.logits is not None
    parts = [(rows, labels.logits[rows]) for rows in torch.arange(20).split(10)[::-1]]
    LabelStore(run, METHOD).save(0, labels.views, parts)


def labels_of(run: Run, *, count: int = 20) -> EpochLabels:
    logits: Tensor = torch.randn(count, 10, generator=torch.Generator().manual_seed(0))
    return EpochLabels(epoch_params(run.settings, count, 0, CPU), logits)


@pytest.fixture
def kept(runs_dir: Path) -> Run:
    """A run with images, of which one epoch is labelled at random."""
    run = begin(runs_dir, "kept")
    save(run)
    return run


def test_views_and_logits_survive_the_file(kept: Run) -> None:
    labels, read = labels_of(kept), LabelStore(kept, METHOD).load(0, CPU, count=20)
    assert labels.logits is not None
    assert same(replace(labels, logits=labels.logits.half()), read)


def test_equal_labels_are_equal_files(kept: Run) -> None:
    path, contents = kept.file(label_path(METHOD, 0)), set()
    for _ in range(20):
        save(kept)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip_a_bit, empty, Path.unlink])
def test_a_damaged_epoch_is_labelled_again(kept: Run, damage: Callable[[Path], None]) -> None:
    assert LabelStore(kept, METHOD).has(0)
    damage(kept.file(label_path(METHOD, 0)))
    assert not LabelStore(kept, METHOD).has(0)


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
def test_a_damaged_epoch_is_not_read(kept: Run, damage: Callable[[Path], None]) -> None:
    damage(kept.file(label_path(METHOD, 0)))
    with pytest.raises(PrismError, match=r"epoch_0000.*cannot be read.*run the labels stage again"):
        LabelStore(kept, METHOD).load(0, CPU, count=20)


def test_labels_of_more_or_fewer_images_are_refused(kept: Run) -> None:
    with pytest.raises(PrismError, match="are of 20 images, but there are 21"):
        LabelStore(kept, METHOD).load(0, CPU, count=21)


def test_labels_of_another_order_of_classes_are_refused(kept: Run) -> None:
    classes = open_dataset(kept.settings).class_records()
    swapped = [{**a, "index": n} for n, a in enumerate([classes[1], classes[0], *classes[2:]])]
    fileio.write_json(kept.path / "classes.json", swapped)
    try:
        store = LabelStore(kept, METHOD)
        assert not store.has(0)
        with pytest.raises(PrismError, match="an order of classes that is not the run's"):
            store.load(0, CPU, count=20)
    finally:
        fileio.write_json(kept.path / "classes.json", classes)


def test_labels_of_other_images_are_refused(kept: Run, runs_dir: Path) -> None:
    other = begin(runs_dir, "other", replicate=1)
    path = other.file(label_path(METHOD, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(kept.file(label_path(METHOD, 0)).read_bytes())
    with pytest.raises(PrismError, match="made from other images"):
        LabelStore(other, METHOD).load(0, CPU, count=20)


@pytest.mark.parametrize("kind", ["fp32", "int8", "top_k"])
def test_every_format_goes_through_a_file(runs_dir: Path, kind: str) -> None:
    run = begin(runs_dir, kind, label_format=kind, label_top_k=9)
    save(run)
    assert LabelStore(run, METHOD).has(0)
    read, labels = LabelStore(run, METHOD).load(0, CPU, count=20), labels_of(run)
    assert read.logits is not None
    assert labels.logits is not None
    assert torch.allclose(read.logits, labels.logits, atol=0.05)


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "top_k"])
def test_the_planned_size_is_that_of_the_files(runs_dir: Path, kind: str) -> None:
    run = begin(runs_dir, f"size-{kind}", label_format=kind)
    foreseen = pipeline.plan(run, "relabel").disk_bytes
    pipeline.execute(run, "relabel")
    assert foreseen is not None
    written = sum(p.stat().st_size for p in run.path.glob("labels/*/*.safetensors"))
    headers = 3 * 1200  # names, types and places of a file's tensors
    assert foreseen <= written <= foreseen + headers
