"""Checkpoint files: a state comes back whole or not at all."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from prism_nb.models.checkpoint import Checkpoint

STATE: dict[str, Any] = {
    "tensors": [
        torch.arange(6.0).view(2, 3),
        torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last),
    ],
    "history": [{"loss": 0.1 + 0.2, "epoch": 3}],
    "numbers": {1: (2, None)},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "unit.checkpoint"
    Checkpoint(path, "mine").save(STATE)
    return path


def test_a_state_comes_back_with_its_memory_layout(path: Path) -> None:
    found = Checkpoint(path, "mine").load()
    assert found is not None
    assert (found["history"], found["numbers"]) == (STATE["history"], STATE["numbers"])
    for mine, theirs in zip(found["tensors"], STATE["tensors"], strict=True):
        assert torch.equal(mine, theirs)
        assert mine.stride() == theirs.stride()


def test_another_fingerprint_or_no_file_is_no_state(path: Path) -> None:
    assert Checkpoint(path, "theirs").load() is None
    Checkpoint(path, "mine").clear()
    assert not path.exists()
    assert Checkpoint(path, "mine").load() is None
    Checkpoint(path, "mine").clear()


def test_a_flipped_bit_of_a_tensor_is_found(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = [part for part in archive.infolist() if part.file_size >= 24]
    whole = path.read_bytes()
    for part in parts:
        content = bytearray(whole)
        name = int.from_bytes(whole[part.header_offset + 26 :][:2], "little")
        extra = int.from_bytes(whole[part.header_offset + 28 :][:2], "little")
        content[part.header_offset + 30 + name + extra + part.file_size // 2] ^= 4
        path.write_bytes(content)
        assert Checkpoint(path, "mine").load() is None, part.filename


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("rest", [b"", b"\x93" * 900])
def test_a_damaged_file_is_no_state(path: Path, share: float, rest: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))] + rest)
    assert Checkpoint(path, "mine").load() is None
