"""Networks with published or local weights, cut to the classes of a dataset."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from huggingface_hub import constants
from torch import Tensor

from prism_nb.core.errors import UsageError
from prism_nb.core.presets import POOLS
from prism_nb.core.yaml_io import write_yaml
from prism_nb.data.dataset import ClassInfo, ImageDataset, Split
from prism_nb.data.index import imagenet_wnids
from prism_nb.models.architectures import architecture_of
from prism_nb.models.pretrained import native_preprocess, open_pretrained
from prism_nb.models.teacher import PreprocessConfig, dataset_preprocess
from prism_nb.models.weights_file import to_safetensors, weights_metadata
from prism_nb.models.zoo import build_network, stem_of

SHUFFLENET = torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1


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
    """Random weights of 1,000 classes in the cache of torch's hub."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.manual_seed(1)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), folder / "new.pth")
    prefix = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()[:10]
    file = (folder / "new.pth").rename(folder / f"shufflenet-{prefix}.pth")
    monkeypatch.setattr(SHUFFLENET.value, "url", f"https://nowhere.invalid/{file.name}")
    return file


def in_hugging_face_cache(
    folder: Path, name: str, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Write weights to where Hugging Face's hub would have put those of a timm network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    repository = folder / f"models--timm--{name}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    file = repository / "snapshots" / "abc" / "model.safetensors"
    file.parent.mkdir(parents=True)
    safetensors.torch.save_file(state, file)
    return file


@pytest.fixture
def timm_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights of 1,000 classes in the cache of Hugging Face's hub."""
    torch.manual_seed(2)
    state = timm.create_model("test_resnet").state_dict()
    return in_hugging_face_cache(tmp_path / "hub", "test_resnet.r160_in1k", state, monkeypatch)


def saved(file: Path, name: str = "test_resnet", classes: int = 3, size: int = 64) -> str:
    """Write a network with random weights, and return its name with them."""
    torch.manual_seed(3)
    torch.save(build_network(name, classes=classes, image_size=size).state_dict(), file)
    return f"{name}@{file}"


# -- heads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5@DEFAULT", "test_resnet.r160_in1k"])
def test_the_datasets_classes_are_found_in_a_whole_head(
    name: str, torchvision_file: Path, timm_file: Path
) -> None:
    rows = [701, 3, 999, 0]
    found = open_pretrained(name, Noise([imagenet_wnids()[row] for row in rows]))
    if "@" in name:
        whole = torchvision.models.shufflenet_v2_x0_5()
        whole.load_state_dict(torch.load(torchvision_file, weights_only=True))
    else:
        whole = timm.create_model("test_resnet")
        whole.load_state_dict(safetensors.torch.load_file(timm_file))
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.allclose(found.network(images), whole.eval()(images), atol=1e-5)
    assert found.classes == imagenet_wnids()
    assert found.head_rows == tuple(rows)


def test_metadata_decide_preprocessing_and_order_of_the_head(tmp_path: Path) -> None:
    name, dataset = saved(tmp_path / "w.pth", classes=4), Noise("abc")
    values = {"mean": [0.1] * 3, "std": [0.4] * 3, "size": 48, "interpolation": "bicubic"}
    values["classes"] = ["c", "other", "a", "b"]
    (tmp_path / "w.yaml").write_text(write_yaml(values))
    found = open_pretrained(name, dataset)
    assert found.head_rows == (2, 3, 0)
    expected = PreprocessConfig((0.1,) * 3, (0.4,) * 3, 48, "bicubic")
    assert found.preprocess == native_preprocess(name, dataset) == expected
    assert native_preprocess("test_resnet", dataset) == dataset_preprocess(dataset)
    (tmp_path / "w.yaml").write_text(write_yaml({**values, "classes": ["a", "b", "c"]}))
    with pytest.raises(UsageError, match="a head of 4 classes, but 3 are named"):
        open_pretrained(name, dataset)


def test_a_head_of_other_classes_is_refused(tmp_path: Path, torchvision_file: Path) -> None:
    name = saved(tmp_path / "w.pth")
    assert open_pretrained(name, Noise("abc")).classes == tuple("abc")
    with pytest.raises(UsageError, match="a head of 3 classes, but noise has 4"):
        open_pretrained(name, Noise("abcd"))
    with pytest.raises(UsageError, match="a head of 1000 classes, but noise has 2"):
        open_pretrained("shufflenet_v2_x0_5@DEFAULT", Noise(["cat", "dog"]))


# -- fit -------------------------------------------------------------------------------------


def test_weights_with_another_stem_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "w.pth", "resnet18", size=64)  # a stem for small images
    with pytest.raises(UsageError, match=r"size mismatch for conv1\.weight: .*stem: small"):
        open_pretrained(f"resnet18@{tmp_path / 'w.pth'}", Noise("abc", size=96))
    (tmp_path / "w.yaml").write_text(write_yaml({"build": {"stem": "small"}}))
    found = open_pretrained(f"resnet18@{tmp_path / 'w.pth'}", Noise("abc", size=96))
    assert stem_of(found.network) == "3x3 stride 1"


def stem_in(file: Path, name: str, described: dict[str, Any] | None = None, size: int = 32) -> str:
    """Return the stem of the network that a file is opened in, with a description."""
    if described is not None:
        file.with_suffix(".yaml").write_text(write_yaml(described))
    return stem_of(open_pretrained(f"{name}@{file}", Noise("abc", size=size)).network)


TRAINED_AT_32 = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": 32, "interpolation": "bilinear"}


def test_the_stem_of_small_images_is_found_by_shape_or_asked_for(tmp_path: Path) -> None:
    torch.manual_seed(7)
    for name in ("resnet18", "shufflenet_v2_x0_5"):
        state = torchvision.models.get_model(name, num_classes=3).state_dict()
        torch.save(state, tmp_path / f"{name}.pth")
    own = saved(tmp_path / "own.pth", "resnet18").partition("@")[0]
    assert stem_in(tmp_path / "own.pth", own) == "3x3 stride 1"
    large, both = tmp_path / "resnet18.pth", tmp_path / "shufflenet_v2_x0_5.pth"
    with pytest.raises(UsageError, match="trained in at 32 pixels.*mean, std, size"):
        stem_in(large, "resnet18")  # trained on small images, or on large ones?
    assert stem_in(large, "resnet18", TRAINED_AT_32) == "7x7 stride 2 pool"
    for described in (None, TRAINED_AT_32):
        with pytest.raises(UsageError, match=r"tell the stem of .*`build: {stem: stock}` into"):
            stem_in(both, both.stem, described)
    for stem, found in (("stock", "3x3 stride 2 pool"), ("small", "3x3 stride 1")):
        assert stem_in(both, both.stem, {"build": {"stem": stem}}) == found
    told = {**TRAINED_AT_32, "build": {"stem": "3x3 stride 1 pool"}}
    assert stem_in(both, both.stem, told) == "3x3 stride 1 pool"
    with pytest.raises(UsageError, match="stem 'large' is none of stock, small"):
        stem_in(both, both.stem, {"build": {"stem": "large"}})


def test_weights_of_large_images_keep_their_stem_at_small_ones(torchvision_file: Path) -> None:
    few = Noise(imagenet_wnids()[:3], size=32)
    found = open_pretrained("shufflenet_v2_x0_5@DEFAULT", few, resample=False)
    assert stem_of(found.network) == "3x3 stride 2 pool"
    assert found.spec.build == (("stem", "stock"),)


def test_the_kits_own_files_are_not_asked_for_their_stem(tmp_path: Path) -> None:
    network = build_network("shufflenet_v2_x0_5", classes=3, image_size=32)
    metadata = weights_metadata(tuple("abc"), dataset_preprocess(Noise("abc", size=32)))
    (tmp_path / "w.safetensors").write_bytes(to_safetensors(network.state_dict(), metadata))
    for size in (32, 96):  # it was trained at 32 pixels
        assert stem_in(tmp_path / "w.safetensors", "shufflenet_v2_x0_5", size=size) == (
            "3x3 stride 1"
        )


def test_another_architecture_is_refused_with_the_first_names(tmp_path: Path) -> None:
    name = saved(tmp_path / "w.pth", "resnet34", size=96).replace("resnet34", "resnet18")
    message = r"not of 'resnet18': Unexpected key.* \"layer1\.2\.conv1\.weight\".* Name the arch"
    with pytest.raises(UsageError, match=message):
        open_pretrained(name, Noise("abc", size=96))


def test_tensors_beside_a_whole_network_are_named(tmp_path: Path) -> None:
    name = saved(tmp_path / "w.pth")
    state = torch.load(tmp_path / "w.pth", weights_only=True)
    torch.save({"normalize.mean": torch.ones(3), **state}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r'key.*: "normalize\.mean".*own tensors alone'):
        open_pretrained(name, Noise("abc"))


def test_half_precision_under_a_prefix_is_read(tmp_path: Path) -> None:
    name = saved(tmp_path / "w.pth")
    state = torch.load(tmp_path / "w.pth", weights_only=True)
    half = {f"model.{key}": v.half() if v.is_floating_point() else v for key, v in state.items()}
    torch.save({"state_dict": half}, tmp_path / "w.pth")
    found = open_pretrained(name, Noise("abc"))
    assert found.spec.part == "state_dict/model"
    torch.testing.assert_close(found.network.state_dict(), state, rtol=1e-3, atol=1e-6)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    name = saved(tmp_path / "w.pth")
    state = torch.load(tmp_path / "w.pth", weights_only=True)
    state["fc.bias"][1] = float("nan")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"fc\.bias holds NaN"):
        open_pretrained(name, Noise("abc"))


def test_old_names_of_densenet_and_missing_counters_are_understood(tmp_path: Path) -> None:
    torch.manual_seed(4)
    state = torchvision.models.densenet121(num_classes=3).state_dict()
    pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))(\d)\.")
    old = {pattern.sub(r"\1.\2.", key): value for key, value in state.items()}
    old = {key: value for key, value in old.items() if "num_batches" not in key}
    assert set(old) - set(state)
    torch.save(old, tmp_path / "w.pth")
    large = Noise("abc", size=96)  # small images would get another stem
    found = open_pretrained(f"densenet121@{tmp_path / 'w.pth'}", large).network.state_dict()
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_old_names_of_timms_files_are_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        old[re.sub(r"stages\.(\d)\.downsample", r"downsample_layers.\1", key)] = value.clone()
    assert set(old) != set(state)
    torch.save(old, tmp_path / "w.pth")
    network = open_pretrained(
        f"test_convnext@{tmp_path / 'w.pth'}", Noise(imagenet_wnids())
    ).network
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    in_hugging_face_cache(tmp_path, "test_convnext.r160_in1k", old, monkeypatch)
    generator = torch.random.get_rng_state()
    network = open_pretrained("test_convnext.r160_in1k", Noise(imagenet_wnids())).network
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    assert torch.equal(generator, torch.random.get_rng_state())


NETWORKS = sorted(
    {
        architecture_of(network)
        for pool in POOLS.names()
        for networks in POOLS.read(pool).values()
        for network in networks
    }
    - {"alexnet", "vgg11_bn"}  # hundreds of megabytes
)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_a_pool_survives_a_file(name: str, tmp_path: Path) -> None:
    few = Noise("abc")
    torch.manual_seed(0)
    network = build_network(name, classes=3, image_size=64)
    metadata, file = (
        weights_metadata(tuple("abc"), dataset_preprocess(few)),
        tmp_path / "w.safetensors",
    )
    file.write_bytes(to_safetensors(network.state_dict(), metadata))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        again = open_pretrained(f"{name}@{file}", few).network(images)
        assert torch.equal(again, network.eval()(images))
