"""Networks with weights from elsewhere: found, cut to the classes, checked, and used."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import network_unit, squeeze_units, statistics_unit
from prism_nb.core.units import is_pretrained_name, slug
from prism_nb.core.yaml_io import write_yaml
from prism_nb.data.dataset import ClassInfo, ImageDataset, Split
from prism_nb.execution import pipeline
from prism_nb.execution.backends import run_units
from prism_nb.execution.cost import unit_costs
from prism_nb.execution.open_run import open_run, preflight
from prism_nb.models import pretrained, squeeze
from prism_nb.models.pool import load_teacher, wrap_teacher
from prism_nb.models.pretrained import head_row_indices, open_pretrained
from prism_nb.models.squeeze import ensure_weights, import_pretrained
from prism_nb.models.teacher import PreprocessConfig, Teacher, dataset_preprocess
from prism_nb.models.weights import (
    check_weights_present,
    download_weights,
    imagenet_wnids,
    read_weights,
    resolve_weights,
    to_safetensors,
)
from prism_nb.models.zoo import architecture_of, build_network, source_of
from prism_nb.viz.tables import teacher_table

WORK = "prism_nb.models.squeeze:run_unit"
SHUFFLENET = torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
CPU = torch.device("cpu")


class Noise(ImageDataset):
    """Images of noise, of any classes."""

    def __init__(self, folders: Sequence[str], size: int = 64) -> None:
        self.name, self.image_size = "noise", size
        self.mean, self.std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
        self.classes = tuple(ClassInfo(i, f, f) for i, f in enumerate(folders))

    def labels(self, split: Split) -> np.ndarray:
        return np.arange(len(self.classes)).repeat(2)

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        shape = (len(indices), 3, self.image_size, self.image_size)
        return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).byte()


@pytest.fixture
def torchvision_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights of 1,000 classes, lying where torch's hub would have put real ones."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.manual_seed(1)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), folder / "new.pth")
    begin = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()[:10]
    file = (folder / "new.pth").rename(folder / f"shufflenet-{begin}.pth")
    monkeypatch.setattr(SHUFFLENET.value, "url", f"https://nowhere.invalid/{file.name}")
    return file


@pytest.fixture
def hub_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights of 1,000 classes, lying where Hugging Face's hub would have put real ones."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    file = repository / "snapshots" / "abc" / "model.safetensors"
    file.parent.mkdir(parents=True)
    torch.manual_seed(2)
    safetensors.torch.save_file(timm.create_model("test_resnet").state_dict(), file)
    return file


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where anything would be fetched."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)


# -- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "architecture", "library"),
    [
        ("resnet18", "resnet18", "torchvision"),
        ("resnet18@IMAGENET1K_V1", "resnet18", "torchvision"),
        ("resnet18.a1_in1k", "timm/resnet18", "timm"),
        ("timm/resnet18.a1_in1k", "timm/resnet18", "timm"),
        ("timm/resnet18@some.dir/w.pth", "timm/resnet18", "timm"),
    ],
)
def test_names(name: str, architecture: str, library: str) -> None:
    assert architecture_of(name) == architecture
    assert source_of(name) == library
    assert is_pretrained_name(name) == (name != "resnet18")


def test_no_architecture_looks_as_if_it_had_weights() -> None:
    assert not any(
        map(is_pretrained_name, [*timm.list_models(), *torchvision.models.list_models()])
    )


def test_files_of_the_run_are_named_apart() -> None:
    names = ["resnet18@a/w.pth", "resnet18@b/w.pth", "resnet18@w.pth", "timm/resnet18@w.pth"]
    assert len({slug(name) for name in names}) == 4
    assert not any("/" in slug(name) for name in names)
    assert slug("timm/resnet18") == "timm--resnet18"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet18@IMAGENET1K", "no weights 'IMAGENET1K' of resnet18.*'IMAGENET1K_V1'"),
        ("resnet18@w.bin", r"ends in \.safetensors or \.pth"),
        ("resnet18.a1_in1", "timm has no weights 'a1_in1' of resnet18.*'a1_in1k'"),
        ("timm/resnet18@DEFAULT", r"timm's are named resnet18\.TAG"),
        ("resnet81@DEFAULT", "unknown network 'resnet81'.*resnet18"),
        ("resnet81@w.pth", "unknown network 'resnet81'.*resnet18"),
    ],
)
def test_unknown_names_are_refused(name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve_weights(name)


def test_a_student_with_weights_is_refused() -> None:
    with pytest.raises(UsageError, match=r"students: 'resnet18@DEFAULT' names weights"):
        load_settings("digits_quick", {"students": ["resnet18@DEFAULT"]})


# -- where weights lie -----------------------------------------------------------------------


def test_default_is_the_librarys_choice() -> None:
    assert resolve_weights("resnet50@DEFAULT").tag == "IMAGENET1K_V2"


def test_what_publishers_say_is_known_without_the_weights() -> None:
    source = resolve_weights("resnet18@IMAGENET1K_V1")
    assert source.space == PreprocessConfig((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224)
    assert (source.head, source.accuracy) == (1000, pytest.approx(0.69758))
    assert source.hash_prefix == "f37072fd"
    timms = resolve_weights("resnet50.a1_in1k")
    assert timms.space == PreprocessConfig(
        (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224, "bicubic"
    )
    assert timms.licence == "apache-2.0"


def test_all_missing_weights_are_named_at_once_with_their_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    names = ["resnet18@DEFAULT", "resnet50.a1_in1k", "resnet18@gone/w.pth"]
    changes = {"teachers": names, "primary": names[0]}
    with pytest.raises(UsageError) as caught:
        preflight(load_settings("digits_quick", changes))
    message = str(caught.value)
    folder = tmp_path / "hub" / "checkpoints"
    assert f"resnet18-f37072fd.pth in {folder}" in message
    assert f"-o '{folder}/resnet18-f37072fd.pth' https://download.pytorch.org/models" in message
    assert "hf_hub_download('timm/resnet50.a1_in1k', 'model.safetensors')" in message
    assert "models--timm--resnet50.a1_in1k" in message
    assert "w.pth in " in message


def test_cached_weights_are_found_without_a_network(
    torchvision_file: Path, hub_file: Path, no_network: None
) -> None:
    check_weights_present(["shufflenet_v2_x0_5@IMAGENET1K_V1", "test_resnet.r160_in1k"])
    assert resolve_weights("shufflenet_v2_x0_5@DEFAULT").file == torchvision_file
    assert resolve_weights("test_resnet.r160_in1k").file == hub_file


def test_weights_are_fetched_only_if_asked(
    torchvision_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = torchvision_file.read_bytes()
    torchvision_file.unlink()
    asked: list[str] = []

    def download(url: str, to: str, prefix: str, **_: Any) -> None:
        asked.append(prefix)
        Path(to).write_bytes(content)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    name = "shufflenet_v2_x0_5@DEFAULT"
    with pytest.raises(UsageError, match="weights are missing"):
        ensure_weights(name, may_fetch=False)
    assert not asked
    ensure_weights(name, may_fetch=True)
    assert torchvision_file.read_bytes() == content
    assert torchvision_file.stem.endswith(asked[0])


# -- heads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5@DEFAULT", "test_resnet.r160_in1k"])
def test_a_head_keeps_the_rows_of_the_datasets_classes_in_its_order(
    name: str, torchvision_file: Path, hub_file: Path
) -> None:
    wnids, rows = imagenet_wnids(), [701, 3, 999, 0]
    dataset = Noise([wnids[row] for row in rows])
    taken = open_pretrained(name, dataset)
    if "@" in name:
        whole = torchvision.models.shufflenet_v2_x0_5()
        whole.load_state_dict(torch.load(torchvision_file, weights_only=True))
    else:
        whole = timm.create_model("test_resnet")
        whole.load_state_dict(safetensors.torch.load_file(hub_file))
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        wanted = whole.eval()(images)[:, rows]
        assert torch.allclose(taken.network(images), wanted, atol=1e-5)


def test_all_classes_in_another_order_are_reordered(torchvision_file: Path) -> None:
    turned = imagenet_wnids()[::-1]
    network = open_pretrained("shufflenet_v2_x0_5@DEFAULT", Noise(turned)).network
    whole = torch.load(torchvision_file, weights_only=True)
    assert torch.equal(network.state_dict()["fc.weight"], whole["fc.weight"].flip(0))


def test_wnids_are_imagenets() -> None:
    assert len(imagenet_wnids()) == 1000
    assert list(imagenet_wnids()) == sorted(imagenet_wnids())
    assert imagenet_wnids()[0] == "n01440764"  # tench


@pytest.mark.parametrize("folders", [["cat", "dog"], [*map(str, range(999))]])
def test_a_head_of_other_classes_is_refused(folders: list[str], torchvision_file: Path) -> None:
    words = f"a head of 1000 classes, but noise has {len(folders)}"
    with pytest.raises(UsageError, match=words):
        open_pretrained("shufflenet_v2_x0_5@DEFAULT", Noise(folders))


def test_a_lost_folder_is_not_taken_for_a_choice(torchvision_file: Path) -> None:
    name, wnids = "shufflenet_v2_x0_5@DEFAULT", imagenet_wnids()
    dataset = Noise([wnid for wnid in wnids if wnid not in {wnids[7], wnids[900]}])
    words = rf"head of 1000 classes, .* has 998; '{wnids[7]}' is the first .* class_list"
    with pytest.raises(UsageError, match=words):
        head_row_indices(resolve_weights(name), 1000, dataset)
    dataset.chosen = True
    assert len(head_row_indices(resolve_weights(name), 1000, dataset)) == 998
    assert len(head_row_indices(resolve_weights(name), 1000, Noise(wnids[:899]))) == 899


def test_weights_that_only_timm_reads_come_with_ways_out() -> None:
    with pytest.raises(UsageError) as caught:
        resolve_weights("vit_base_patch16_224.augreg_in1k")
    message = str(caught.value)
    assert "take others of it (vit_base_patch16_224.augreg2_in21k_ft_in1k, " in message
    assert "create_model('vit_base_patch16_224.augreg_in1k', pretrained=True)" in message
    assert "name timm/vit_base_patch16_224@vit_base_patch16_224.pth" in message
    offered = message.partition("(")[2].partition(")")[0].split(", ")
    assert {resolve_weights(other).head for other in offered} == {1000}


# -- fit -------------------------------------------------------------------------------------


def saved(file: Path, name: str = "test_resnet", classes: int = 3, size: int = 64) -> Path:
    torch.manual_seed(3)
    network = build_network(name, classes=classes, image_size=size)
    torch.save(network.state_dict(), file)
    return file


def test_weights_of_another_architecture_are_refused_by_keys(tmp_path: Path) -> None:
    file = saved(tmp_path / "w.pth")
    with pytest.raises(
        UsageError, match=r"not of 'test_byobnet': missing stem\.conv\.weight.* more"
    ):
        open_pretrained(f"test_byobnet@{file}", Noise("abc"))


def test_weights_of_other_shapes_are_refused_by_shape(tmp_path: Path) -> None:
    file = saved(tmp_path / "w.pth", "resnet18", size=64)  # a stem for small images
    words = r"of other shape conv1\.weight is \[64, 3, 3, 3\] instead of \[64, 3, 7, 7\]"
    with pytest.raises(UsageError, match=words):
        open_pretrained(f"resnet18@{file}", Noise("abc", size=96))


def test_a_files_head_is_counted_from_its_weights(tmp_path: Path) -> None:
    file = saved(tmp_path / "w.pth")
    assert open_pretrained(f"test_resnet@{file}", Noise("abc")).space.size == 64
    with pytest.raises(UsageError, match="a head of 3 classes, but noise has 4"):
        open_pretrained(f"test_resnet@{file}", Noise("abcd"))


def test_a_damaged_cache_is_named(torchvision_file: Path) -> None:
    torchvision_file.write_bytes(torchvision_file.read_bytes()[:-1])
    with pytest.raises(UsageError, match=f"{torchvision_file.name} are damaged"):
        open_pretrained("shufflenet_v2_x0_5@DEFAULT", Noise("ab"))


def test_old_names_of_densenet_and_missing_counters_are_understood(tmp_path: Path) -> None:
    torch.manual_seed(4)
    state = torchvision.models.densenet121(num_classes=3).state_dict()
    old = dict(state)
    for key in state:
        if "denselayer" in key:
            for part in ("norm", "conv"):
                for digit in "12":
                    new = key.replace(f"{part}{digit}.", f"{part}.{digit}.")
                    if new != key:
                        old[new] = old.pop(key)
    old = {key: value for key, value in old.items() if "num_batches" not in key}
    assert set(old) - set(state)
    torch.save(old, tmp_path / "w.pth")
    large = Noise("abc", size=96)  # of small images it would have another stem
    found = open_pretrained(f"densenet121@{tmp_path / 'w.pth'}", large).network.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())


# -- pixels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["bilinear", "bicubic"])
def test_each_teacher_sees_its_own_pixels(way: str) -> None:
    dataset = Noise("abc")
    own = PreprocessConfig((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 48, way)
    network = build_network("test_resnet", classes=3, image_size=48)
    teacher = wrap_teacher("test_resnet", network, dataset, own, CPU)
    pixels = dataset.images("val", range(2))
    seen = teacher.preprocess(dataset.canonical(pixels))
    small = functional.interpolate(pixels.double() / 255, size=(48, 48), mode=way, antialias=True)
    for c in range(3):
        wanted = (small[:, c] - own.mean[c]) / own.std[c]
        assert torch.allclose(seen[:, c].double(), wanted, atol=2e-5)


# -- in a run --------------------------------------------------------------------------------


def squeezed(folder: Path, name: str, **changes: Any) -> Run:
    run = open_run(run_name=name, preset="digits_quick", runs_dir=folder, changes=changes)
    run_units(run, squeeze_units(run, 10), WORK, lambda _: None)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with two trained networks."""
    changes = {"teachers": ["test_resnet"], "squeeze_epochs": 2}
    return squeezed(tmp_path_factory.mktemp("trained"), "trained", **changes)


def weights_of(run: Run, name: str = "test_resnet") -> Path:
    return run.file(f"teachers/{name}.safetensors")


def teachers_from(file: Path, holdout_network: Path) -> dict[str, Any]:
    return {
        "teachers": [f"test_resnet@{file}"],
        "primary": f"test_resnet@{file}",
        "holdout_networks": [f"test_mambaout@{holdout_network}"],
    }


def test_a_network_of_one_run_is_a_teacher_of_another(trained: Run, tmp_path: Path) -> None:
    changes = teachers_from(weights_of(trained), weights_of(trained, "test_mambaout"))
    run = squeezed(tmp_path, "r", **changes)
    name = run.settings.primary
    images = torch.randn(4, 3, 32, 32)
    theirs = load_teacher(trained, "test_resnet")
    assert torch.equal(load_teacher(run, name)(images), theirs(images))
    mine = run.units.record(network_unit(run.settings, name))
    record = trained.units.record(network_unit(trained.settings, "test_resnet"))
    assert mine["accuracy"] == record["accuracy"] > 0.5
    assert mine["weights_sha256"] == hashlib.sha256(weights_of(trained).read_bytes()).hexdigest()
    assert mine["order_checked"] is True  # by what it takes each class for: nothing is published
    assert run.file(f"teachers/{slug(name)}.safetensors").read_bytes() == (
        weights_of(trained).read_bytes()
    )


def test_it_is_given_its_own_pixels_at_another_image_size(trained: Run, tmp_path: Path) -> None:
    changes = teachers_from(weights_of(trained), weights_of(trained, "test_mambaout"))
    run = squeezed(tmp_path, "r", image_size=48, **changes)
    teacher = load_teacher(run, run.settings.primary)
    assert teacher.preprocess(torch.randn(1, 3, 48, 48)).shape[-1] == 32
    record = run.units.record(network_unit(run.settings, run.settings.primary))
    assert record["space"]["size"] == 32
    assert record["accuracy"] > 0.5


def test_training_settings_do_not_touch_given_weights(settings: Any) -> None:
    changed = load_settings("digits_quick", {"squeeze_epochs": 7})
    name = "resnet18@DEFAULT"
    assert network_unit(settings, name) == network_unit(changed, name)
    assert statistics_unit(settings, name, 4) == statistics_unit(changed, name, 4)
    shifted = load_settings("digits_quick", {"squeeze_max_shift": 0})
    assert network_unit(settings, name) == network_unit(shifted, name)
    assert statistics_unit(settings, name, 4) != statistics_unit(shifted, name, 4)
    assert network_unit(settings, "test_resnet") != network_unit(changed, "test_resnet")


def test_a_file_that_has_changed_is_not_taken_from_an_equal_run(
    trained: Run, tmp_path: Path
) -> None:
    file, holdout_network = tmp_path / "w.safetensors", weights_of(trained, "test_mambaout")
    file.write_bytes(weights_of(trained).read_bytes())
    squeezed(tmp_path, "first", **teachers_from(file, holdout_network))
    again = squeezed(tmp_path, "second", **teachers_from(file, holdout_network))
    unit = network_unit(again.settings, again.settings.primary)
    assert again.units.record(unit)["reused_from"] == "first"
    tensors = read_weights(file)
    file.write_bytes(to_safetensors({key: value * 1 for key, value in tensors.items()}))
    third = squeezed(tmp_path, "third", **teachers_from(file, holdout_network))
    assert third.units.record(unit)["reused_from"] is None
    space = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 40, "interpolation": "bilinear"}
    file.with_suffix(".yaml").write_text(write_yaml(space))
    fourth = squeezed(tmp_path, "fourth", **teachers_from(file, holdout_network))
    assert fourth.units.record(unit)["reused_from"] is None
    assert fourth.units.record(unit)["space"]["size"] == 40


def test_a_head_in_the_wrong_order_stops_the_run(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def published(name: str) -> Any:
        return replace(resolve_weights(name), accuracy=0.9)

    file, holdout_network = tmp_path / "w.safetensors", weights_of(trained, "test_mambaout")
    turned = [str((i + 1) % 10) for i in range(10)]
    note = {"space": {**vars(dataset_preprocess(preflight(trained.settings)))}, "classes": turned}
    file.write_bytes(to_safetensors(read_weights(weights_of(trained)), note))
    monkeypatch.setattr(pretrained, "resolve_weights", published)
    with pytest.raises(PrismError, match=r"takes 1?\d of 10 classes for one other .* class order"):
        squeezed(tmp_path, "wrong", **teachers_from(file, holdout_network))
    note["classes"] = [str(i) for i in range(10)]
    file.write_bytes(to_safetensors(read_weights(weights_of(trained)), note))
    run = squeezed(tmp_path, "right", **teachers_from(file, holdout_network))
    assert (
        run.units.record(network_unit(run.settings, run.settings.primary))["order_checked"] is True
    )


def test_a_head_that_cannot_be_told_is_taken_with_a_warning_and_shown(
    trained: Run, tmp_path: Path
) -> None:
    torch.manual_seed(6)
    file, holdout_network = tmp_path / "w.pth", weights_of(trained, "test_mambaout")
    torch.save(build_network("test_resnet", classes=10, image_size=32).state_dict(), file)
    with pytest.warns(UserWarning, match=r"'test_resnet@.*could not be told .* before a long run"):
        run = squeezed(tmp_path, "r", **teachers_from(file, holdout_network))
    shown = teacher_table(run)["order checked"]
    assert shown.to_list() == ["no", "yes"]
    assert "order checked" not in teacher_table(trained)  # it says nothing of what is trained here


def test_a_head_that_is_cut_is_said_to_be(torchvision_file: Path) -> None:
    name, dataset = "shufflenet_v2_x0_5@DEFAULT", Noise(imagenet_wnids()[:3])
    words = "of the 1000 classes of its head, the 3 of the dataset are kept"
    with pytest.warns(UserWarning, match=words):
        _, facts = import_pretrained(name, dataset, CPU)
    assert facts["head_classes"] == 1000
    assert facts["order_checked"] is False


@pytest.mark.parametrize(("size", "share"), [(224, 0.5), (112, 0.25), (111, None), (300, 0.5)])
def test_a_published_accuracy_says_less_of_small_images(size: int, share: float | None) -> None:
    space = PreprocessConfig((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 224)
    least = squeeze._least_accuracy(0.8, Noise("ab", size=size), space)
    assert least == (None if share is None else pytest.approx(0.8 * share))
    assert squeeze._least_accuracy(None, Noise("ab", size=size), space) is None


def test_bad_weights_stop_a_run_before_any_work(trained: Run, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(weights_of(trained).read_bytes()[:1000])
    with pytest.raises(UsageError, match="damaged"):
        squeezed(tmp_path, "r", **teachers_from(file, weights_of(trained, "test_mambaout")))
    assert not (tmp_path / "r").exists()


def test_statistics_stay_those_of_the_weights(trained: Run, tmp_path: Path) -> None:
    changes = teachers_from(weights_of(trained), weights_of(trained, "test_mambaout"))
    run = squeezed(tmp_path, "r", **changes)
    teacher: Teacher = load_teacher(run, run.settings.primary)
    stored = read_weights(weights_of(trained))
    layers = [n for n, m in teacher.network.named_modules() if isinstance(m, nn.BatchNorm2d)]
    means = [stored[f"{layer}.running_mean"] for layer in layers]
    assert len(means) == len(teacher.running_stats()) > 5
    for mine, mean in zip(teacher.running_stats(), means, strict=True):
        assert torch.equal(mine.mean, mean)


def test_a_run_that_holds_its_weights_needs_their_source_no_more(
    trained: Run, tmp_path: Path
) -> None:
    file, holdout_network = tmp_path / "w.safetensors", weights_of(trained, "test_mambaout")
    file.write_bytes(weights_of(trained).read_bytes())
    run = squeezed(tmp_path, "r", **teachers_from(file, holdout_network))
    file.unlink()
    assert preflight(run.settings, run).name == "digits"
    with pytest.raises(UsageError, match=r"weights are missing:\n  test_resnet@"):
        preflight(run.settings)


@pytest.mark.parametrize("image_size", [32, 40])
def test_given_teachers_steer_label_and_measure_a_whole_run(
    trained: Run, tmp_path: Path, image_size: int
) -> None:
    changes = {
        **teachers_from(weights_of(trained), weights_of(trained, "test_mambaout")),
        "image_size": image_size,
        "methods": ["prism", "prism_wide"],
        "recipe": {"iterations": 3, "conv_patch_size": 4},
        "ipc": 2,
        "label_epochs": 2,
        "students": ["test_resnet"],
        "student_seeds": 1,
        "real_per_class": 5,
    }
    run = open_run(run_name="r", preset="digits_quick", runs_dir=tmp_path, changes=changes)
    given = [network_unit(run.settings, name) for name in run.settings.networks]
    assert all(c.work > 0 for c in unit_costs(run, given, measure=True).values())
    for stage in pipeline.STAGES:
        pipeline.execute(run, stage)
        assert not pipeline.check(run, stage).missing
    images = sorted((run.path / "synthesis" / "prism" / "images").glob("*/*.png"))
    assert len(images) == 20
    table = teacher_table(run)
    assert list(table.index) == list(run.settings.networks)
    assert set(table["source"]) == {"timm"}
    assert "published %" not in table  # a file of one's own says nothing of that


def test_published_accuracy_stands_beside_the_measured_one(
    trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Run.record

    def published(run: Run, unit: Any) -> dict[str, Any]:
        known = {"test_resnet": 0.69758}
        return {**record(run, unit), "published_accuracy": known.get(unit.name)}

    assert "published %" not in teacher_table(trained)
    monkeypatch.setattr(Run, "record", published)
    table = teacher_table(trained)
    assert table.loc["test_resnet", "published %"] == pytest.approx(69.758)
    assert table.loc["test_mambaout"].isna()["published %"]
    columns = list(table.columns)
    assert columns.index("published %") == columns.index("accuracy %") + 1


def test_files_of_a_papers_own_program_are_rewritten_as_timm_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--timm--test_convnext.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    torch.manual_seed(5)
    state = timm.create_model("test_convnext").state_dict()
    names = {
        "stem.": "downsample_layers.0.",
        ".blocks": "",
        "conv_dw": "dwconv",
        "mlp.fc": "pwconv",
        "head.norm": "norm",
        "head.fc": "head",
    }
    old = {}
    for key, value in state.items():
        for new, before in names.items():
            key = key.replace(new, before)
        key = re.sub(r"stages\.(\d)\.downsample", r"downsample_layers.\1", key)
        old[key] = value.clone()
    assert set(old) != set(state)
    safetensors.torch.save_file(old, folder / "snapshots" / "abc" / "model.safetensors")
    network = open_pretrained("test_convnext.r160_in1k", Noise(imagenet_wnids())).network
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())


def test_what_cannot_be_fetched_says_how_to_elsewhere(
    hub_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OfflineModeIsEnabled("HF_HUB_OFFLINE=1 is set")

    hub_file.unlink()
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    words = r"cannot be fetched: HF_HUB_OFFLINE=1 is set; elsewhere: python -c"
    with pytest.raises(UsageError, match=words):
        download_weights(resolve_weights("test_resnet.r160_in1k"))
