"""Bad inputs: each is refused with one message and exit code 2, and nothing is written."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from prism_nb.core import fileio
from prism_nb.core.errors import UsageError
from prism_nb.execution.exchange import import_images
from prism_nb.execution.open_run import open_run
from prism_nb.models.weights_file import to_safetensors
from tests.helpers.dangerous import Dangerous
from tests.helpers.image_sets import SETTINGS, picture, write_set


def refusal(attempt: Callable[[Path], object], folder: Path) -> str:
    """Return the message of a refused attempt that may write to `folder`/runs alone."""
    runs = folder / "runs"
    before = sorted(runs.rglob("*"))
    with pytest.raises(UsageError) as caught:
        attempt(runs)
    assert caught.value.exit_code == 2
    assert sorted(runs.rglob("*")) == before
    assert not (folder / "ran").exists()
    return str(caught.value)


def begin(changes: dict[str, Any], preset: str = "digits_quick") -> Callable[[Path], object]:
    return lambda runs: open_run(run_name="r", preset=preset, runs_dir=runs, changes=changes)


# -- settings and their files ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ipcs": 5}, "unknown setting 'ipcs'; did you mean 'ipc'"),
        ({"ipc": "5"}, "ipc: Input should be a valid integer, got '5'"),
        ({"methods": ["prsim"]}, "unknown method 'prsim'; did you mean 'prism'"),
        ({"recipe": {"iteration": 5}}, "unknown setting 'iteration'; did you mean 'iterations'"),
        ({"dataset": "folder", "data_dir": "/none"}, "is no folder"),
        ({"squeeze_batch": 5000}, "squeeze_batch is 5000, but digits has only"),
        ({"ipc": 5000}, "lower ipc to"),
        ({"teachers": ["test_resnet", "resnet81"]}, "did you mean 'resnet18'"),
        ({"teachers": ["test_resnet", "keras/resnet18"]}, "is no library"),
        ({"teachers": ["test_resnet", "test_vit"]}, "BN"),
    ],
)
def test_settings(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(begin(changes), tmp_path)


def bomb_yaml() -> str:
    """Return a few lines in which each list holds the previous one ten times."""
    lines = [f"{a}: &{a} [{', '.join([f'*{b}'] * 10)}]" for b, a in pairwise("abcdefghi")]
    return "\n".join(["a: &a [x]", *lines, "ipc: *i"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"ipc: [1,", "not valid YAML"),
        (b"ipc: 1\nipc: 2\n", "ipc is repeated"),
        (b"ipc: !!python/object/apply:os.system [ls]", "not valid YAML"),
        (b"\xff\xfe\x00ipc", "cannot be read"),
        (bomb_yaml().encode(), "aliases are not read"),
    ],
)
def test_preset_files(tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text)
    assert message in refusal(begin({}, str(path)), tmp_path)


# -- run folders -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.yaml", "- nothing\n", "must hold lines of"),
        ("config.yaml", "hologram: true\n", "(hologram): another version made the run"),
        ("study.json", "{}", "is a study's folder"),
    ],
)
def test_run_folders(tmp_path: Path, file: str, text: str, message: str) -> None:
    fileio.write_text(tmp_path / "runs" / "r" / file, text)
    assert message in refusal(begin({}), tmp_path)


# -- images and weights ----------------------------------------------------------------------


def of_network(name: str, classes: int = 10) -> bytes:
    return to_safetensors(timm.create_model(name, num_classes=classes).state_dict())


def compressed(path: Path) -> None:
    torch.save({"x": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("w.safetensors", lambda path: None, "w.safetensors"),
        ("w.safetensors", lambda path: path.write_bytes(of_network("test_byobnet")[:999]), "w.saf"),
        ("w.safetensors", lambda path: path.write_bytes(of_network("test_resnet")), "are not of"),
        ("w.safetensors", lambda path: path.write_bytes(of_network("test_byobnet", 999)), "999"),
        (
            "w.pth",
            lambda path: path.write_bytes(pickle.dumps(Dangerous(path.with_name("ran")))),
            "w.pth",
        ),
        ("w.pth", lambda path: torch.save(Dangerous(path.with_name("ran")), path), "w.pth"),
        ("w.pth", compressed, "its entries are compressed"),
        (
            "w.pth",
            lambda path: torch.save({"x": torch.zeros(1).expand(10**12)}, path),
            "are not of",
        ),
    ],
)
def test_weights(tmp_path: Path, name: str, write: Callable[[Path], object], message: str) -> None:
    write(tmp_path / name)
    teachers = ["test_resnet", f"test_byobnet@{tmp_path / name}"]
    assert message in refusal(begin({"teachers": teachers}), tmp_path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: folder / "none", "none"),
        (lambda folder: write_set(folder, "{c:05d}/{c:05d}_{s:04d}.png", classes=9), "class"),
        (lambda folder: zipped(folder, {"../../evil.png": picture(1)}), "../"),
    ],
)
def test_imported_sets(tmp_path: Path, write: Callable[[Path], Path], message: str) -> None:
    source = write(tmp_path / "set")

    def attempt(runs: Path) -> object:
        return import_images(
            source,
            run_name="r",
            preset="digits_quick",
            method="imported",
            runs_dir=runs,
            changes=SETTINGS,
            resize=False,
        )

    assert message in refusal(attempt, tmp_path)


def zipped(folder: Path, changes: dict[str, bytes]) -> Path:
    """Write an archive of a whole set, with some entries changed or added."""
    entries = {
        f"{c:05d}/{c:05d}_{s:04d}.png": picture(10 * c + s) for c in range(10) for s in range(2)
    }
    folder.mkdir()
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        for name, content in {**entries, **changes}.items():
            archive.writestr(name, content)
    return folder / "set.zip"
