"""Lists of training images: every kind of file is read, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.settings import Settings
from prism_nb.core.unit_plan import method_fingerprint
from prism_nb.data.imported import ImportedSet, imported_set, infer_ipc
from prism_nb.data.index_list import IndexedSet, hash_indices, read_indices
from prism_nb.data.registry import open_dataset

ROWS = np.random.default_rng(0).permutation(20)


def two_of_each() -> list[int]:
    """Return two images of each class, in no order."""
    dataset = open_dataset(load_settings("digits_quick"))
    each = [dataset.class_indices("train", c)[[7, 3]] for c in range(10)]
    return [int(index) for index in np.concatenate(each)[ROWS]]


def write(path: Path, values: Any) -> Path:
    """Write a list in the form that the file's ending names."""
    if path.suffix == ".npy":
        np.save(path, np.array(values))
    elif path.suffix == ".pt":
        torch.save(values if path.stem == "plain" else torch.tensor(values), path)
    else:
        lines = "\n".join(map(str, values))
        path.write_text(json.dumps(values) if path.suffix == ".json" else lines)
    return path


def settings_of(path: Path, digest: str | None = None, **changes: Any) -> Settings:
    own = {"source": str(path), "indices": digest or hash_indices(read_indices(path))}
    wanted = {"methods": ["imported"], "recipes": {"imported": own}, "ipc": 2}
    return load_settings("digits_quick", {**wanted, **changes})


def open_set(path: Path, **changes: Any) -> ImportedSet | IndexedSet:
    settings = settings_of(path, **changes)
    return imported_set(settings, "imported", open_dataset(settings))


@pytest.mark.parametrize("name", ["a.txt", "a", "a.json", "a.npy", "a.pt", "plain.pt"])
def test_images_come_in_the_order_of_every_kind_of_list(name: str, tmp_path: Path) -> None:
    listed = two_of_each()
    path = write(tmp_path / name, listed)
    dataset = open_dataset(settings_of(path))
    pixels, record = open_set(path).images([(4, 1), (0, 0), (4, 0)])
    of = {c: [i for i in listed if dataset.labels("train")[i] == c] for c in (0, 4)}
    assert record["indices"] == [of[4][1], of[0][0], of[4][0]]
    assert torch.equal(pixels, dataset.images("train", record["indices"]))
    assert infer_ipc(path, dataset, indices=True) == 2


def test_the_content_of_a_list_decides_and_not_its_file(tmp_path: Path) -> None:
    files = write(tmp_path / "a.npy", two_of_each()), write(tmp_path / "b.txt", two_of_each())
    one, same = (method_fingerprint(settings_of(path), "imported") for path in files)
    other = write(tmp_path / "c.json", two_of_each()[::-1])
    assert one == same != method_fingerprint(settings_of(other), "imported")


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("a.txt", [3, -1], "lists image -1, but digits has 1257 training images"),
        ("a.txt", [3, 1257], "lists image 1257, but .* counted from 0 in its own order"),
        ("a.npy", [3, 5, 3], "lists image 3 2 times; keep one"),
        (
            "a.json",
            [3, 5],
            "lists 0 images of class 0 .'0'., but ipc is 2; all classes have 0 to 1",
        ),
        ("a.json", [3, True], "True is no integer"),
        ("a.npy", [3.0, 5.0], "3.0 is no integer"),
        ("a.pt", 3, "it holds no list"),
        ("a.txt", ["3", "cat.png"], "no list of training images: invalid literal .*'cat.png'"),
        ("a.txt", [], "it holds no list, or an empty one"),
        ("plain.pt", Path.touch, "it holds more than tensors; save integers as .npy, .pt"),
        ("gone/a.json", None, "No such file"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, values: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if path.parent.exists():
        write(path, values)
    with pytest.raises(UsageError, match=message):
        open_set(path)


def test_a_list_of_other_images_than_the_runs_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npy", two_of_each())
    data_free = open_dataset(load_settings("imagenet_wheels"))
    with pytest.raises(UsageError, match="lists training images; name their folder by"):
        infer_ipc(path, data_free, indices=True)
    with pytest.raises(UsageError, match="counts all training images; set eval_split to test"):
        open_set(path, eval_split="tuning")
    with pytest.raises(UsageError, match="has changed since method imported was imported"):
        open_set(path, digest="0")
