"""Weights by name: where they lie, how files are read, and that no file's code runs."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled

from prism_nb.core.errors import UsageError
from prism_nb.core.yaml_io import write_yaml
from prism_nb.models.teacher import PreprocessConfig
from prism_nb.models.weights import (
    WeightsMetadata,
    check_weights_present,
    download_weights,
    read_metadata,
    read_weights,
    resolve_weights,
    to_safetensors,
)
from tests.helpers.dangerous import Dangerous

WEIGHTS = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(2)}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
METADATA: dict[str, Any] = {
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 1.0],
    "size": 48,
    "interpolation": "bicubic",
}


# -- names -----------------------------------------------------------------------------------


def test_publishers_facts_are_known_without_the_file() -> None:
    spec = resolve_weights("resnet18@IMAGENET1K_V1")
    assert spec.preprocess == PreprocessConfig(*IMAGENET, 224)
    assert (spec.head, spec.accuracy) == (1000, pytest.approx(0.69758))
    assert spec.hash_prefix == "f37072fd"
    timms = resolve_weights("resnet50.a1_in1k")
    assert timms.preprocess == PreprocessConfig(*IMAGENET, 224, "bicubic")
    assert (timms.licence, timms.tag) == ("apache-2.0", "a1_in1k")
    assert resolve_weights("resnet50@DEFAULT").tag == "IMAGENET1K_V2"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18@IMAGENET1K", "no weights 'IMAGENET1K' of resnet18.*'IMAGENET1K_V1'"),
        ("resnet18@w.bin", r"name ends in \.safetensors or \.pth"),
        ("resnet18.a1_in1", "timm has no weights 'a1_in1' of resnet18.*'a1_in1k'"),
        ("timm/resnet18@DEFAULT", r"NAME\.TAG of timm"),
        ("resnet81@DEFAULT", "unknown network 'resnet81'.*resnet18"),
        ("vit_base_patch16_224.augreg_in1k", r"only timm reads"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve_weights(name)


def test_all_missing_weights_are_named_at_once_with_their_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(UsageError) as caught:
        check_weights_present(["resnet18@DEFAULT", "resnet50.a1_in1k", "resnet18@gone/w.pth"])
    message, folder = str(caught.value), tmp_path / "hub" / "checkpoints"
    assert f"resnet18-f37072fd.pth in {folder}" in message
    assert f"-o '{folder}/resnet18-f37072fd.pth' https://download.pytorch.org/models" in message
    assert "hf download timm/resnet50.a1_in1k model.safetensors" in message
    assert "w.pth in " in message


def test_a_failed_download_names_a_command_for_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OfflineModeIsEnabled("HF_HUB_OFFLINE=1 is set")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    message = r"cannot be fetched: HF_HUB_OFFLINE=1 is set; elsewhere: hf download"
    with pytest.raises(UsageError, match=message):
        download_weights(resolve_weights("test_resnet.r160_in1k"))


# -- metadata --------------------------------------------------------------------------------


def described(folder: Path, **changes: object) -> str:
    """Describe a weights file in YAML, and return the network's name with it."""
    values = {name: value for name, value in (METADATA | changes).items() if value is not None}
    (folder / "mine.yaml").write_text(write_yaml(values))
    return f"test_resnet@{folder / 'mine.pth'}"


def test_a_yaml_file_describes_local_weights(tmp_path: Path) -> None:
    spec = resolve_weights(described(tmp_path, classes=["b", "a", "c"]))
    assert spec.preprocess == PreprocessConfig((0.1, 0.2, 0.3), (0.4, 0.5, 1.0), 48, "bicubic")
    assert (spec.classes, spec.head) == (("b", "a", "c"), 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": None}, "size: Field required"),
        ({"size": "48"}, "size: .*, got '48'"),
        ({"std": [0.4, 0.0, 1.0]}, r"std\.1: .*greater than 0, got 0"),
        ({"mean": [124, 116, 104]}, r"mean\.0: .*less than or equal to 1, got 124"),
        ({"interpolation": "nearest"}, "interpolation: .*'bilinear' or 'bicubic', got 'nearest'"),
        ({"classes": ["a", "b", "a"]}, "classes: a name is listed twice"),
        ({"classes": ["a"]}, "classes: .*at least 2"),
    ],
)
def test_invalid_metadata_are_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=rf"mine\.yaml \(metadata of mine\.pth\): .*{message}"):
        resolve_weights(described(tmp_path, **changes))


def test_unknown_build_arguments_are_refused_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"metadata of .*mine\.pth: timm .* with no_such=1: "):
        resolve_weights(described(tmp_path, build={"no_such": 1}))
    with pytest.raises(UsageError, match=r"build\.no_such.*got \[1\]"):
        resolve_weights(described(tmp_path, build={"no_such": [1]}))


def test_metadata_in_the_file_come_back_and_bytes_repeat(tmp_path: Path) -> None:
    build = {"act_layer": "silu", "flag": True, "count": 1, "bn_eps": 1e-3}
    values = {**METADATA, "classes": ["a", "b"], "build": build}
    metadata = WeightsMetadata.parse(values, where="a test")
    assert [*map(type, metadata.build.values())] == [str, bool, int, float]
    content, file = to_safetensors(WEIGHTS, metadata), tmp_path / "w.safetensors"
    file.write_bytes(content)
    assert read_metadata(file) == metadata
    assert to_safetensors(WEIGHTS, metadata) == content
    file.with_suffix(".yaml").write_text(write_yaml(METADATA))
    in_yaml = read_metadata(file)
    assert in_yaml is not None
    assert in_yaml.classes is None
    (tmp_path / "bare.safetensors").write_bytes(to_safetensors(WEIGHTS))
    assert read_metadata(tmp_path / "bare.safetensors") is None


# -- content ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "epoch": 3},
        {"model": {f"module.{key}": value for key, value in WEIGHTS.items()}},
    ],
)
def test_wrappers_and_prefixes_are_understood(content: dict[str, Any], tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pth")
    found = read_weights(tmp_path / "w.pth")
    assert list(found) == list(WEIGHTS)
    assert all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [0, 2, 4, "archive"])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, protocol: int | str) -> None:
    mark, file = tmp_path / "ran", tmp_path / "evil.pth"
    if protocol == "archive":
        torch.save({**WEIGHTS, "x": Dangerous(mark)}, file)
    else:
        file.write_bytes(pickle.dumps(Dangerous(mark), protocol=protocol))
    with pytest.raises(UsageError, match=r"evil\.pth .*more than tensors") as caught:
        read_weights(file)
    assert not mark.exists()
    assert "weights_only" not in str(caught.value)  # torch's advice how to run it after all
    if protocol != "archive":
        pickle.loads(file.read_bytes())  # the file is what it is meant to be
        assert mark.exists()


@pytest.mark.parametrize(
    "content",
    [
        torch.nn.Linear(2, 2),
        [["x"] * 10] * 10**5,
        {},
        {"fc.weight": WEIGHTS["fc.weight"], "epoch": 3},
    ],
)
def test_other_content_than_a_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"w\.pth .*save the state dict alone"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "noise", "cut"])
def test_a_damaged_file_is_named(tmp_path: Path, suffix: str, damage: str) -> None:
    file = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(WEIGHTS, file)
    else:
        safetensors.torch.save_file(WEIGHTS, file)
    whole = file.read_bytes()
    damaged = {"empty": b"", "noise": b"\x93" * 900, "cut": whole[: len(whole) // 2]}
    file.write_bytes(damaged[damage])
    with pytest.raises(UsageError, match=rf"w\{suffix} are damaged or no state dict"):
        read_weights(file)


def test_another_hash_and_no_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file(WEIGHTS, file)
    found = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    assert set(read_weights(file, hash_prefix=found)) == set(WEIGHTS)
    with pytest.raises(UsageError, match=f"their SHA-256 begins with {found}"):
        read_weights(file, hash_prefix="00000000")
    with pytest.raises(UsageError, match=r"gone\.pth .*No such file"):
        read_weights(tmp_path / "gone.pth")
