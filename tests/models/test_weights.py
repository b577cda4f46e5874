"""Weights by name: where they lie, and how to get those that are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled

from prism_nb.core.errors import UsageError
from prism_nb.models.teacher import PreprocessConfig
from prism_nb.models.weights import (
    check_weights_present,
    download_weights,
    resolve_weights,
)

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


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
        ("resnet18@w.onnx", r"name ends in \.safetensors or \.pth or "),
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
