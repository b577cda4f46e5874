"""Reading `torch.save` files safely, and hashes of tensors."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from prism_nb.core.torch_io import ZipBombError, hash_tensors, load_torch_file

VALUE = {"x": torch.arange(100.0)}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.pth"
    torch.save(VALUE, path)
    return path


def packed(plain: Path) -> Path:
    """Write the same archive with its parts deflated, as torch would read it too."""
    path = plain.with_name("packed.pth")
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as target:
        for part in source.infolist():
            target.writestr(part.filename, source.read(part), zipfile.ZIP_DEFLATED)
    assert torch.equal(torch.load(path, weights_only=True)["x"], VALUE["x"])
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_saved_tensors_come_back(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.pth"
    torch.save(VALUE, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(load_torch_file(path)["x"], VALUE["x"])


def test_compressed_entries_are_refused(plain: Path) -> None:
    with pytest.raises(ZipBombError, match="entries are compressed"):
        load_torch_file(packed(plain))


@pytest.mark.parametrize("end", [4, 500, -1])
def test_truncated_archives_are_refused(plain: Path, end: int) -> None:
    plain.write_bytes(plain.read_bytes()[:end])
    with pytest.raises(ZipBombError):
        load_torch_file(plain)


TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(True)}


def test_hashes_do_not_depend_on_order_and_layout() -> None:
    other = {"b": TENSORS["b"], "a": TENSORS["a"].t().contiguous().t()}
    assert hash_tensors(other) == hash_tensors(TENSORS)


@pytest.mark.parametrize(
    "changed",
    [
        {**TENSORS, "a": TENSORS["a"] + 1},
        {**TENSORS, "a": TENSORS["a"].view(3, 2)},
        {**TENSORS, "a": TENSORS["a"].view(torch.int32)},
        {"c": TENSORS["a"], "b": TENSORS["b"]},
    ],
)
def test_hashes_depend_on_everything_else(changed: dict[str, torch.Tensor]) -> None:
    assert hash_tensors(changed) != hash_tensors(TENSORS)


def test_all_types_and_shapes_have_hashes() -> None:
    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.complex64):
        for shape in ((), (0,), (2, 3)):
            assert len(hash_tensors({"a": torch.zeros(shape, dtype=dtype)})) == 64
