"""Weights read from files: what is understood, what is refused, and that nothing is run."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from prism_nb.core.errors import UsageError
from prism_nb.models.weights import read_metadata, read_weights, to_safetensors

WEIGHTS = {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(2)}


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": w}, lambda w: {"model": w}])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_prefixes_are_understood(tmp_path: Path, wrap: Any, prefix: str) -> None:
    file = tmp_path / "w.pth"
    torch.save(wrap({prefix + key: value for key, value in WEIGHTS.items()}), file)
    found = read_weights(file)
    assert list(found) == list(WEIGHTS)
    assert all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, protocol: int) -> None:
    mark, file = tmp_path / "ran", tmp_path / "evil.pth"
    file.write_bytes(pickle.dumps(Evil(mark), protocol=protocol))
    with pytest.raises(UsageError, match=r"evil\.pth"):
        read_weights(file)
    assert not mark.exists()
    pickle.loads(file.read_bytes())  # the file is what it is meant to be
    assert mark.exists()


def test_a_malicious_archive_does_not_run_and_says_what_it_asked_for(tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({**WEIGHTS, "x": Evil(mark)}, file)
    with pytest.raises(UsageError, match=r"evil\.pth ask for posix\.system") as caught:
        read_weights(file)
    assert not mark.exists()
    assert "weights_only" not in str(caught.value)  # nobody is told how to run it after all


def test_a_whole_network_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"ask for torch\.nn\.modules\.linear\.Linear"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("content", [[1, 2], {}, {"fc.weight": WEIGHTS["fc.weight"], "epoch": 3}])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UsageError, match=r"w\.pth.*save the state dict alone"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "noise", "cut"])
def test_a_damaged_file_is_named(tmp_path: Path, ending: str, damage: str) -> None:
    file = tmp_path / f"w{ending}"
    if ending == ".pth":
        torch.save(WEIGHTS, file)
    else:
        safetensors.torch.save_file(WEIGHTS, file)
    whole = file.read_bytes()
    file.write_bytes(
        {"empty": b"", "noise": b"\x93" * 900, "cut": whole[: len(whole) // 2]}[damage]
    )
    with pytest.raises(UsageError, match=rf"w\{ending} are damaged or no weights at all"):
        read_weights(file)


def test_a_packed_file_is_refused_unread(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(10**6)}, tmp_path / "a.pth")
    packed = tmp_path / "w.pth"
    with zipfile.ZipFile(tmp_path / "a.pth") as source, zipfile.ZipFile(packed, "w") as target:
        for part in source.infolist():
            target.writestr(part.filename, source.read(part), zipfile.ZIP_DEFLATED)
    assert packed.stat().st_size < 10_000
    with pytest.raises(
        UsageError, match=r"w\.pth are damaged.*its parts are packed.*fetch or save"
    ):
        read_weights(packed)


def test_a_view_that_claims_any_size_is_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(1).expand(10**12)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="x claims to be larger than the file"):
        read_weights(tmp_path / "w.pth")


def test_lists_of_lists_without_end_are_refused_in_one_short_message(tmp_path: Path) -> None:
    content: list[Any] = ["x"] * 10
    for _ in range(12):
        content = [content] * 10
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="are no state dict but") as caught:
        read_weights(tmp_path / "w.pth")
    assert len(str(caught.value)) < 500


def test_a_file_of_another_hash_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "w-00000000.pth"
    torch.save(WEIGHTS, file)
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    assert read_weights(file, hash_prefix=right[:8])
    with pytest.raises(UsageError, match=f"damaged: their SHA-256 begins with {right[:8]}"):
        read_weights(file, hash_prefix="00000000")


def test_values_that_are_no_numbers_are_damage(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"a": torch.tensor([1.0, float("nan")])}, file)
    with pytest.raises(UsageError, match="a holds values that are no numbers"):
        read_weights(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.pth cannot be read"):
        read_weights(tmp_path / "gone.pth")


def test_a_note_comes_back_and_the_bytes_repeat(tmp_path: Path) -> None:
    note = {"space": {"size": 32, "mean": [0.5] * 3}, "classes": ["a", "b"]}
    content = to_safetensors(WEIGHTS, note)
    (tmp_path / "w.safetensors").write_bytes(content)
    assert read_metadata(tmp_path / "w.safetensors") == note
    assert to_safetensors(WEIGHTS, note) == content
    (tmp_path / "bare.safetensors").write_bytes(to_safetensors(WEIGHTS))
    assert read_metadata(tmp_path / "bare.safetensors") == {}
