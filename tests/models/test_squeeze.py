"""The squeeze stage: trained, reused and imported networks, and the order of their classes."""

from __future__ import annotations

import hashlib
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies
from hypothesis import settings as hypothesis_settings

from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import network_unit, squeeze_units
from prism_nb.core.units import slug
from prism_nb.core.yaml_io import write_yaml
from prism_nb.data.dataset import ImageDataset
from prism_nb.data.registry import open_dataset
from prism_nb.execution import pipeline
from prism_nb.models import squeeze
from prism_nb.models.bn_distance import spaced_images
from prism_nb.models.checkpoint import unit_checkpoint
from prism_nb.models.pool import load_teacher, untrained_teacher
from prism_nb.models.squeeze import check_class_order, run_unit
from prism_nb.models.teacher import dataset_preprocess
from prism_nb.models.weights_file import (
    read_metadata,
    read_weights,
    to_safetensors,
    weights_metadata,
)
from prism_nb.models.zoo import build_network
from prism_nb.viz.tables import teacher_table

ALONE: dict[str, Any] = {"holdout_networks": [], "label_teachers": []}
TRAINED = {
    **ALONE,
    "teachers": ["test_resnet"],
    "feature_networks": ["test_resnet"],
    "squeeze_epochs": 2,
}


def squeezed(folder: Path, name: str, **changes: Any) -> Run:
    """Begin a run and make all units of its squeeze."""
    run = Run.create(folder / name, load_settings("digits_quick", changes))
    for unit in squeeze_units(run, 10):
        run_unit(run, unit, lambda _: None)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a trained network."""
    return squeezed(tmp_path_factory.mktemp("trained"), "trained", **TRAINED)


def weights_of(run: Run) -> Path:
    return run.file("teachers/test_resnet.safetensors")


def with_weights(file: Path, architecture: str = "test_resnet") -> dict[str, Any]:
    """Return settings of a run whose only network has weights from a file."""
    name = f"{architecture}@{file}"
    return {**ALONE, "teachers": [name], "primary": name, "feature_networks": [name]}


def record_of(run: Run) -> dict[str, Any]:
    return run.units.record(network_unit(run.settings, run.settings.primary))


# -- trained networks ------------------------------------------------------------------------


def test_every_setting_of_the_squeeze_decides_the_weights() -> None:
    settings = load_settings("digits_quick")
    others = {
        "squeeze_epochs": 4,
        "squeeze_batch": 99,
        "squeeze_optimizer": "sgd",
        "squeeze_lr": 0.5,
        "squeeze_schedule": "cosine",
        "squeeze_weight_decay": 0.5,
        "squeeze_label_smoothing": 0.5,
        "squeeze_max_shift": 1,
        "squeeze_crop_min": 0.5,
        "squeeze_flip": True,
        "squeeze_views": "per_image",
        "squeeze_precision": "bf16",
    }
    assert set(others) == {name for name in Settings.fields() if name.startswith("squeeze_")}
    unit, given_unit = (network_unit(settings, name) for name in ("test_resnet", "a@w.pth"))
    for name, value in others.items():
        changed = settings.replace(**{name: value})
        assert network_unit(changed, "test_resnet").fingerprint != unit.fingerprint, name
        assert network_unit(changed, "a@w.pth") == given_unit, name


def test_a_killed_unit_continues_and_leaves_no_checkpoint(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(squeeze, "unit_checkpoint", partial(unit_checkpoint, every=0))
    run = Run.create(tmp_path / "killed", trained.settings)
    (unit,), steps_per_epoch = squeeze_units(run, 10), 1257 // run.settings.squeeze.batch

    def die(event: dict[str, Any]) -> None:
        if event["step"] > steps_per_epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_unit(run, unit, die)
    assert [path.stem for path in run.path.glob("teachers/units/*.checkpoint")] == ["test_resnet"]
    steps: list[int] = []
    run_unit(run, unit, lambda event: steps.append(event["step"]))
    assert steps[0] > steps_per_epoch
    assert not list(run.path.glob("teachers/units/*.checkpoint"))
    assert weights_of(run).read_bytes() == weights_of(trained).read_bytes()
    assert record_of(run)["forgetting"] == record_of(trained)["forgetting"]


def test_an_equal_unit_of_another_run_is_reused(trained: Run) -> None:
    again = Run.create(trained.path.with_name("again"), trained.settings)
    planned = pipeline.plan(again, "squeeze")
    assert (planned.missing, len(planned.reusable), planned.seconds_left) == (1, 1, 0.0)
    outcome = pipeline.execute(again, "squeeze")
    assert str(outcome).startswith("1 units made (1 of them taken over from other runs), 0 done")
    assert record_of(again)["reused_from"] == "trained"
    assert weights_of(again).read_bytes() == weights_of(trained).read_bytes()
    other = squeezed(trained.path.parent, "other", **{**TRAINED, "squeeze_epochs": 1})
    assert record_of(other)["reused_from"] is None


# -- imported networks -----------------------------------------------------------------------


def test_a_network_of_one_run_is_a_teacher_of_another(trained: Run, tmp_path: Path) -> None:
    run = squeezed(tmp_path, "r", **with_weights(weights_of(trained)))
    name, record = run.settings.primary, record_of(run)
    images = torch.randn(4, 3, 32, 32)
    mine, theirs = load_teacher(run, name), load_teacher(trained, "test_resnet")
    assert torch.equal(mine(images), theirs(images))
    for one, other in zip(mine.running_stats(), theirs.running_stats(), strict=True):
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.var, other.var)
    assert record["accuracy"] == record_of(trained)["accuracy"] > 0.5
    assert record["weights_sha256"] == hashlib.sha256(weights_of(trained).read_bytes()).hexdigest()
    assert record["order_checked"] is True
    copied = run.file(f"teachers/{slug(name)}.safetensors")
    assert copied.read_bytes() == weights_of(trained).read_bytes()
    copied.write_bytes(b"damaged")
    with pytest.raises(PrismError, match="run the squeeze stage first"):
        load_teacher(run, name)


def test_it_keeps_its_preprocessing_at_another_image_size(trained: Run, tmp_path: Path) -> None:
    run = squeezed(tmp_path, "r", image_size=48, **with_weights(weights_of(trained)))
    teacher, record = load_teacher(run, run.settings.primary), record_of(run)
    assert teacher.preprocess(torch.randn(1, 3, 48, 48)).shape[-1] == 32
    assert record["preprocess"]["size"] == 32
    assert record["accuracy"] > 0.5


def test_a_changed_file_or_metadata_is_imported_again(trained: Run, tmp_path: Path) -> None:
    file, tensors = tmp_path / "w.safetensors", read_weights(weights_of(trained))
    file.write_bytes(weights_of(trained).read_bytes())
    squeezed(tmp_path, "first", **with_weights(file))
    assert record_of(squeezed(tmp_path, "second", **with_weights(file)))["reused_from"] == "first"
    file.write_bytes(to_safetensors(tensors))
    third = squeezed(tmp_path, "third", **with_weights(file))
    assert record_of(third)["reused_from"] is None
    values = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 40, "interpolation": "bilinear"}
    file.with_suffix(".yaml").write_text(write_yaml(values))
    fourth = squeezed(tmp_path, "fourth", **with_weights(file))
    assert record_of(fourth)["reused_from"] is None
    assert record_of(fourth)["preprocess"]["size"] == 40
    build = {"act_layer": "silu"}
    file.with_suffix(".yaml").write_text(write_yaml({**values, "build": build}))
    fifth = squeezed(tmp_path, "fifth", **with_weights(file))
    assert record_of(fifth)["reused_from"] is None
    images = torch.randn(2, 3, 32, 32)
    one, other = (load_teacher(run, run.settings.primary)(images) for run in (fourth, fifth))
    assert not torch.allclose(one, other, rtol=0.01)


def test_a_wrong_mean_and_std_are_warned_of_and_right_ones_not(
    trained: Run, tmp_path: Path
) -> None:
    own, files = dataset_preprocess(open_dataset(trained.settings)), []
    for number, (mean, std) in enumerate([(own.mean, own.std)] * 2 + [((0.0,) * 3, (1.0,) * 3)]):
        files.append(tmp_path / f"w{number}.safetensors")
        files[-1].write_bytes(weights_of(trained).read_bytes())
        values = {"mean": [*mean], "std": [*std], "size": 32, "interpolation": "bilinear"}
        files[-1].with_suffix(".yaml").write_text(write_yaml(values))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "network .* BN statistics")
        right = squeezed(tmp_path, "right", **with_weights(files[0]))
    assert 0 < record_of(right)["bn_distance"] < 0.05
    with pytest.warns(UserWarning, match=r"BN statistics .* mean \[0\.0.*\], std \[1\.0"):
        wrong = squeezed(tmp_path, "wrong", **with_weights(files[2]))
    assert record_of(wrong)["bn_distance"] > 5 * record_of(right)["bn_distance"]
    names = [f"test_resnet@{file}" for file in files]
    pool = {**with_weights(files[0]), "teachers": names}
    with pytest.warns(UserWarning, match="BN statistics") as found:
        run = squeezed(tmp_path, "pool", **pool)
    texts = [str(w.message) for w in found if "BN statistics" in str(w.message)]
    assert [names[2] in text for text in texts] == [True]
    table = teacher_table(run)["BN distance"]
    assert table[names[2]] == record_of(wrong)["bn_distance"]
    assert table[names[0]] == table[names[1]] == record_of(right)["bn_distance"]


@pytest.mark.filterwarnings("ignore:network")  # it is not trained
def test_a_stem_that_the_images_contradict_stops_the_unit(tmp_path: Path) -> None:
    images = spaced_images(open_dataset(load_settings("digits_quick")), 64)
    options, file = (("stem", "stock"),), tmp_path / "w.pth"
    torch.manual_seed(0)
    network = build_network("shufflenet_v2_x0_5", classes=10, image_size=32, options=options)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the mean over all passes
    for _ in range(2):
        network(images)
    torch.save({"state_dict": network.state_dict(), "epoch": 1}, file)
    settings = with_weights(file, "shufflenet_v2_x0_5")
    file.with_suffix(".yaml").write_text("build: {stem: small}\n")
    with pytest.raises(PrismError, match="'3x3 stride 1', and .* with '3x3 stride 2 pool'"):
        squeezed(tmp_path, "wrong", **settings)
    file.with_suffix(".yaml").write_text("build: {stem: stock}\nweights: state_dict\n")
    run = squeezed(tmp_path, "right", **settings)
    record = record_of(run)
    assert (record["build"], record["weights_part"]) == ({"stem": "stock"}, "state_dict")
    with torch.no_grad():
        expected = network.eval()(images)
        torch.testing.assert_close(load_teacher(run, run.settings.primary)(images), expected)


@pytest.mark.filterwarnings("ignore:network")  # it is not trained
def test_build_arguments_go_from_a_file_through_a_run_into_another(tmp_path: Path) -> None:
    architecture, build = "test_efficientnet", {"pad_type": "same", "bn_eps": 0.001}
    dataset, file = open_dataset(load_settings("digits_quick")), tmp_path / "w.safetensors"
    size = {"classes": 10, "image_size": 32}
    network = build_network(architecture, **size, options=tuple(build.items())).eval()
    plain, images = build_network(architecture, **size).eval(), torch.randn(4, 3, 32, 32)
    plain.load_state_dict(network.state_dict())
    metadata = weights_metadata(folders_of(dataset), dataset_preprocess(dataset))
    file.write_bytes(
        to_safetensors(network.state_dict(), metadata.model_copy(update={"build": build}))
    )
    for number in range(2):
        run = squeezed(tmp_path, f"run{number}", **with_weights(file, architecture))
        name = run.settings.primary
        with torch.no_grad():
            found = load_teacher(run, name)(images)
            torch.testing.assert_close(found, network(images))
            assert not torch.allclose(found, plain(images), rtol=0.01)
        twin = untrained_teacher(name, dataset, torch.device("cpu")).network
        assert str(twin) == str(network) != str(plain)
        file = run.file(f"teachers/{slug(name)}.safetensors")
        written = read_metadata(file)
        assert written is not None
        assert written.build == record_of(run)["build"] == build


def test_missing_weights_are_downloaded_only_if_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(url: str, to: str, prefix: str, **_: Any) -> None:
        Path(to).write_bytes(prefix.encode())

    name = "resnet18@IMAGENET1K_V1"
    only = {**ALONE, "teachers": [name], "primary": name, "feature_networks": [name]}
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(UsageError, match="weights are missing"):
        squeezed(tmp_path, "never", **only)
    assert not (tmp_path / "torch").exists()
    with pytest.raises(UsageError, match="their SHA-256 begins with"):
        squeezed(tmp_path, "fetched", fetch_weights=True, **only)
    assert next(tmp_path.rglob("*.pth")).read_bytes() == b"f37072fd"


# -- order of the classes --------------------------------------------------------------------


def predictions(
    class_of_output: np.ndarray, *, accuracy: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return outputs and labels of a network whose output o is class `class_of_output[o]`."""
    rng, classes = np.random.default_rng(seed), len(class_of_output)
    labels = np.repeat(np.arange(classes), 50)
    similar = rng.permutation(classes)[labels]
    errors = np.where(rng.random(len(labels)) < 0.4, similar, rng.integers(0, classes, len(labels)))
    predicted = np.where(rng.random(len(labels)) < accuracy, labels, errors)
    return np.argsort(class_of_output)[predicted], labels


@given(
    seed=strategies.integers(0, 2**32 - 1),
    classes=strategies.sampled_from([10, 100, 1000]),
    accuracy=strategies.floats(0.65, 0.95),
)
@hypothesis_settings(max_examples=25, deadline=None)
def test_the_right_order_is_confirmed_and_any_other_refused(
    seed: int, classes: int, accuracy: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = predictions(np.arange(classes), accuracy=accuracy, seed=seed)
        assert check_class_order("mine", *right, classes)
    for order in (np.arange(classes)[::-1], np.array(sorted(range(classes), key=str))):
        if (order != np.arange(classes)).mean() > 0.6:
            first = np.argmax(np.argsort(order) != np.arange(classes))
            with pytest.raises(PrismError, match=f"where class {first} is output"):
                check_class_order(
                    "mine", *predictions(order, accuracy=accuracy, seed=seed), classes
                )


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_guessing_network_is_neither_refused_nor_confirmed(classes: int) -> None:
    labels = np.repeat(np.arange(classes), 50)
    guesses = np.random.default_rng(0).integers(0, classes, len(labels))
    for predicted in (guesses, np.zeros_like(labels)):
        with pytest.warns(UserWarning, match="as guessing might"):
            assert not check_class_order("mine", predicted, labels, classes)


def folders_of(dataset: ImageDataset) -> list[str]:
    return [info.folder for info in dataset.classes]


def test_a_head_in_the_wrong_order_stops_the_unit(trained: Run, tmp_path: Path) -> None:
    dataset, file = open_dataset(trained.settings), tmp_path / "w.safetensors"
    metadata = weights_metadata(folders_of(dataset), dataset_preprocess(dataset))
    turned = metadata.model_copy(update={"classes": metadata.classes[::-1]})
    file.write_bytes(to_safetensors(read_weights(weights_of(trained)), turned))
    with pytest.raises(
        PrismError, match=r"correctly, but \d+ in another order .* class 0 is output 9"
    ):
        squeezed(tmp_path, "wrong", **with_weights(file))


def test_an_unconfirmed_order_is_warned_of_and_a_larger_head_kept(
    trained: Run, tmp_path: Path
) -> None:
    torch.manual_seed(6)
    dataset, file = open_dataset(trained.settings), tmp_path / "w.safetensors"
    metadata = weights_metadata(folders_of(dataset), dataset_preprocess(dataset))
    larger = metadata.model_copy(update={"classes": (*"abcdefghij", *metadata.classes)})
    network = build_network("test_resnet", classes=20, image_size=32)
    file.write_bytes(to_safetensors(network.state_dict(), larger))
    with pytest.warns(UserWarning, match="make sure of it"):
        run = squeezed(tmp_path, "r", **with_weights(file))
    record = record_of(run)
    assert (record["order_checked"], record["head_classes"]) == (False, 20)
    assert record["head_rows"] == list(range(10, 20))
    teacher = load_teacher(run, run.settings.primary)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        whole = network.eval()(images)
        torch.testing.assert_close(teacher.head_logits(images), whole)
        assert torch.equal(teacher(images), teacher.head_logits(images)[:, 10:])
    assert torch.equal(teacher.head_labels(torch.tensor([2, 0])), torch.tensor([12, 10]))
