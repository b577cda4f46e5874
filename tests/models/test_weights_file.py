"""Files of weights are read as training programs leave them, or named for what they are."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from argparse import Namespace
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from prism_nb.core.errors import UsageError
from prism_nb.core.yaml_io import write_yaml
from prism_nb.models.teacher import PreprocessConfig
from prism_nb.models.weights import (
    WeightsSpec,
    resolve_weights,
)
from prism_nb.models.weights_file import (
    WeightsMetadata,
    choose_weights,
    read_metadata,
    read_weights,
    to_safetensors,
)
from tests.helpers.dangerous import Dangerous

WEIGHTS = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(2)}
METADATA: dict[str, Any] = {
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 1.0],
    "size": 48,
    "interpolation": "bicubic",
}


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


def prefixed(prefix: str, tensors: dict[str, Tensor] = WEIGHTS) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in tensors.items()}


def chosen(file: Path, part: str | None = None) -> tuple[dict[str, Tensor], str]:
    """Return the weights of a network that has those of `WEIGHTS`, and their place."""
    spec = WeightsSpec("net@w", "file", "net", file.name, file, "", part=part)
    return choose_weights(spec, read_weights(file), WEIGHTS)


class AttributeDict(dict[str, Any]):
    """A dict of another class, as Lightning keeps hyperparameters in."""


LIGHTNING = {
    "state_dict": {**prefixed("model."), "criterion.weight": torch.ones(2)},
    "callbacks": {"best": {"best_model_score": torch.tensor(1.0)}},
    "hyper_parameters": AttributeDict(lr=0.1),
    "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
}
ARGUMENTS = Namespace(
    data=Path("images"), lr=np.float64(0.1), kind=list, sizes=defaultdict(int, a=1)
)
AVERAGED = {"n_averaged": torch.tensor(3), **prefixed("module.module.")}


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("content", "part"),
    [
        (WEIGHTS, ""),
        ({"state_dict": WEIGHTS, "epoch": 3}, "state_dict"),
        ({"model": prefixed("module."), "args": ARGUMENTS, "best": np.float32(1)}, "model"),
        ({"net": prefixed("module."), "acc": 93.0}, "net"),
        (prefixed("_orig_mod.module."), ""),
        (prefixed("module._orig_mod."), ""),
        ({"fc.module.weight": WEIGHTS["fc.weight"], "fc.bias": WEIGHTS["fc.bias"]}, ""),
        ({**WEIGHTS, "total_ops": torch.zeros(1), "fc.total_params": torch.zeros(1)}, ""),
        (prefixed("timm_model."), "timm_model"),
        (prefixed("backbone.net."), "backbone.net"),
        (AVERAGED, ""),
        (LIGHTNING, "state_dict/model"),
        (defaultdict(int, WEIGHTS), ""),
    ],
)
def test_what_training_programs_save_is_read(
    content: Any, part: str, is_zip: bool, tmp_path: Path
) -> None:
    file = tmp_path / "w.pth.tar"
    torch.save(content, file, _use_new_zipfile_serialization=is_zip)
    found, place = chosen(file)
    assert place == part
    assert list(found) == list(WEIGHTS)
    assert all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize(
    ("content", "taken", "other"),
    [
        ({"state_dict": 0, "state_dict_ema": 1}, "state_dict_ema", "state_dict"),
        ({"model": 0, "model_ema": 1}, "model_ema", "model"),
        ({"state_dict": 1, "current_model_state": 0}, "state_dict", "current_model_state"),
    ],
)
def test_averaged_weights_are_taken_unless_others_are_named(
    content: dict[str, int], taken: str, other: str, tmp_path: Path
) -> None:
    averaged = {key: value + 1 for key, value in WEIGHTS.items()}
    torch.save({k: (WEIGHTS, averaged)[v] for k, v in content.items()}, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=f"'{taken}' are taken.*`weights: '{other}'`"):
        found, place = chosen(tmp_path / "w.pth")
    assert place == taken
    assert torch.equal(found["fc.bias"], averaged["fc.bias"])
    found, place = chosen(tmp_path / "w.pth", other)
    assert torch.equal(found["fc.bias"], WEIGHTS["fc.bias"])
    with pytest.raises(UsageError, match=f"none of 'net' at 'no'.*'{other}'"):
        chosen(tmp_path / "w.pth", "no")


def test_weights_that_are_not_told_apart_are_asked_for(tmp_path: Path) -> None:
    torch.save({"state_dict": prefixed("encoder_q.") | prefixed("encoder_k.")}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"write which into .*w\.yaml, .*'state_dict/encoder_q'"):
        chosen(tmp_path / "w.pth")
    assert set(chosen(tmp_path / "w.pth", "state_dict/encoder_k")[0]) == set(WEIGHTS)


def test_a_layer_beside_the_network_is_not_dropped_silently(tmp_path: Path) -> None:
    torch.save({"0.mean": torch.ones(3), **prefixed("1.")}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"hold 0\.mean beside 'net', which is at '1'"):
        chosen(tmp_path / "w.pth")
    assert set(chosen(tmp_path / "w.pth", "1")[0]) == set(WEIGHTS)


def test_the_architecture_in_a_file_is_believed(tmp_path: Path) -> None:
    torch.save({"arch": "resnet34", "state_dict": WEIGHTS}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth", architecture="timm/resnet34")
    with pytest.raises(UsageError, match="of 'resnet34', as they say, not of 'resnet18'"):
        read_weights(tmp_path / "w.pth", architecture="resnet18")
    # timm's older names cannot be named, so they contradict nothing.
    torch.save({"arch": "tf_efficientnet_b0_ns", "state_dict": WEIGHTS}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth", architecture="tf_efficientnet_b0")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (gzip.compress(b"w" * 99, mtime=0), "by gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "as Keras writes"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_of_other_kinds_are_named(
    content: bytes, message: str, suffix: str, tmp_path: Path
) -> None:
    file = tmp_path / f"w{suffix}"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_weights(file)
    with pytest.raises(UsageError, match=f"({message}|names end in)"):
        resolve_weights(f"resnet18@{file.rename(tmp_path / 'w.onnx')}")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_whole_networks_are_refused_by_their_class(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"an object of torch\.nn\.modules\.linear\.Linear and no"):
        read_weights(tmp_path / "w.pth")
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(1)), tmp_path / "w.pt")
    with pytest.raises(UsageError, match="a TorchScript program"):
        read_weights(tmp_path / "w.pt")


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
        {"state": {0: {"exp_avg": torch.ones(1)}}},
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
