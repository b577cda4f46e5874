"""A file beside a local checkpoint says how it wants its pixels, and what its classes are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from prism_nb.core.errors import UsageError
from prism_nb.core.yaml_io import write_yaml
from prism_nb.data.registry import DatasetSizes, ShapeOnlyDataset
from prism_nb.models.pool import wrap_teacher
from prism_nb.models.pretrained import open_pretrained
from prism_nb.models.teacher import PreprocessConfig, dataset_preprocess
from prism_nb.models.weights import resolve_weights, to_safetensors, weights_metadata
from prism_nb.models.zoo import build_network

CPU = torch.device("cpu")
BESIDE: dict[str, object] = {
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 1.0],
    "size": 48,
    "interpolation": "bicubic",
}
FEW = ShapeOnlyDataset("few", DatasetSizes(3, 6, 6), 32)  # its folders are 00000, 00001, 00002


def checkpoint(folder: Path, *, head: int = 3, **beside: object) -> Path:
    torch.manual_seed(0)
    network = build_network("test_resnet", classes=head, image_size=48)
    torch.save(network.state_dict(), folder / "mine.pth")
    values = {name: value for name, value in (BESIDE | beside).items() if value is not None}
    (folder / "mine.yaml").write_text(write_yaml(values))
    return folder / "mine.pth"


def test_the_network_sees_the_pixels_that_it_would_see_by_hand(tmp_path: Path) -> None:
    name = f"test_resnet@{checkpoint(tmp_path)}"
    taken = open_pretrained(name, FEW)
    assert taken.space == PreprocessConfig((0.1, 0.2, 0.3), (0.4, 0.5, 1.0), 48, "bicubic")
    teacher = wrap_teacher(name, taken.network, FEW, taken.space, CPU)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    large = functional.interpolate(pixels / 255, (48, 48), mode="bicubic", antialias=True)
    by_hand = torch.stack(
        [(large[:, c] - (0.1, 0.2, 0.3)[c]) / (0.4, 0.5, 1.0)[c] for c in range(3)], dim=1
    )
    twin = build_network("test_resnet", classes=3, image_size=48)
    twin.load_state_dict(torch.load(tmp_path / "mine.pth", weights_only=True))
    with torch.no_grad():
        seen = teacher(FEW.normalize(pixels))
        assert torch.allclose(seen, twin.eval()(by_hand), atol=1e-4)


def test_classes_that_are_named_decide_the_order_of_the_head(tmp_path: Path) -> None:
    file = checkpoint(tmp_path, head=4, classes=["00002", "other", "00000", "00001"])
    head = torch.load(file, weights_only=True)["fc.weight"]
    cut = open_pretrained(f"test_resnet@{file}", FEW).network.state_dict()["fc.weight"]
    assert torch.equal(cut, head[[2, 3, 0]])


@pytest.mark.parametrize(
    ("beside", "words"),
    [
        ({"size": None}, "size: Field required"),
        ({"size": "48"}, "size: .*, got '48'"),
        ({"std": [0.4, 0.0, 1.0]}, r"std\.1: .*greater than 0, got 0"),
        ({"mean": [124, 116, 104]}, r"mean\.0: .*less than or equal to 1, got 124"),
        ({"mean": [0.5, 0.4]}, "mean: value 3 is missing"),
        ({"interpolation": "nearest"}, "interpolation: .*'bilinear' or 'bicubic', got 'nearest'"),
        ({"input_size": 48}, "unknown setting 'input_size'"),
        ({"classes": ["a", "b", "a"]}, "classes: a is named twice"),
        ({"classes": ["a"]}, "classes: name all"),
    ],
)
def test_what_it_gets_wrong_is_named(beside: dict[str, object], words: str, tmp_path: Path) -> None:
    file = checkpoint(tmp_path, **beside)
    with pytest.raises(UsageError, match=rf"mine\.yaml \(beside mine\.pth\): .*{words}"):
        resolve_weights(f"test_resnet@{file}")


def test_a_head_of_other_size_than_the_classes_named_is_refused(tmp_path: Path) -> None:
    file = checkpoint(tmp_path, classes=["00000", "00001", "00002", "more"])
    with pytest.raises(UsageError, match="a head of 3 classes, but 4 are named beside"):
        open_pretrained(f"test_resnet@{file}", FEW)


def test_what_is_no_mapping_is_refused(tmp_path: Path) -> None:
    file = checkpoint(tmp_path)
    (tmp_path / "mine.yaml").write_text("- 1\n")
    with pytest.raises(UsageError, match=r"mine\.yaml .*must hold lines of `name: value`"):
        resolve_weights(f"test_resnet@{file}")


def test_weights_that_speak_for_themselves_are_not_spoken_for(tmp_path: Path) -> None:
    network = build_network("test_resnet", classes=3, image_size=32)
    file = tmp_path / "kit.safetensors"
    file.write_bytes(
        to_safetensors(network.state_dict(), weights_metadata(FEW, dataset_preprocess(FEW)))
    )
    assert resolve_weights(f"test_resnet@{file}").space == dataset_preprocess(FEW)
    (tmp_path / "kit.yaml").write_text(write_yaml(BESIDE))
    with pytest.raises(UsageError, match=r"say themselves .* delete .*kit\.yaml"):
        resolve_weights(f"test_resnet@{file}")
