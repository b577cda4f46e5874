"""Parquet files that pyarrow writes in several shapes are read image by image, or refused."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.data import parquet
from prism_nb.data.imported import ImportedSet, imported_set, infer_ipc, open_archive
from prism_nb.data.registry import open_dataset
from tests.helpers.image_sets import SIZE, picture, pixels_of

KEYS = [(c, k) for c in range(10) for k in range(2)]
CONTENTS = [picture(100 * c + k) for c, k in KEYS]
DIGITS = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]


def open_set(path: Path, *, resize: bool = False) -> ImportedSet:
    recipes = {"imported": {"source": str(path), "resize": resize}}
    changes = {"methods": ["imported"], "recipes": recipes, "ipc": 2, "image_size": SIZE}
    settings = load_settings("digits_quick", changes)
    return imported_set(settings, "imported", open_dataset(settings))


def class_label(names: Sequence[str]) -> dict[bytes, bytes]:
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def structs(contents: Sequence[bytes | None]) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": content, "path": "x.png"} for content in contents], kind)


def write(
    path: Path,
    images: pa.Array,
    labels: Any,
    rows: int | None = None,
    *,
    names: Sequence[str] = ("image", "label"),
    metadata: dict[bytes, bytes] | None = None,
) -> Path:
    table = pa.table([images, pa.array(labels)], names=names).replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=rows)
    return path


def numbers(keys: Sequence[tuple[int, int]] = KEYS) -> list[int]:
    return [c for c, _ in keys]


SHAPES: dict[str, Callable[[Path], Path]] = {
    "numbers": lambda f: write(f, structs(CONTENTS), numbers()),
    "several row groups": lambda f: write(f, structs(CONTENTS), numbers(), rows=3),
    "names out of order": lambda f: write(
        f, structs(CONTENTS), [9 - c for c in numbers()], metadata=class_label(DIGITS[::-1])
    ),
    "large binary": lambda f: write(f, pa.array(CONTENTS, pa.large_binary()), numbers(), rows=7),
    "texts in a dictionary": lambda f: write(
        f, pa.array(CONTENTS), pa.array([f"{c}" for c in numbers()]).dictionary_encode()
    ),
    "images in a dictionary": lambda f: write(
        f, pa.array(CONTENTS).dictionary_encode(), numbers(), names=["img", "class_id"]
    ),
    "classes in turn": lambda f: write(
        f, structs([picture(100 * c + k) for k in range(2) for c in range(10)]), [*range(10)] * 2, 7
    ),
    "small integers": lambda f: write(f, structs(CONTENTS), pa.array(numbers(), pa.uint8())),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_read_pixel_by_pixel(tmp_path: Path, shape: str) -> None:
    found = open_set(SHAPES[shape](tmp_path / "set.parquet"))
    order = [KEYS[i] for i in torch.randperm(20, generator=torch.manual_seed(0))]
    pixels, record = found.images(order)
    expected = [pixels_of(picture(100 * c + k)) for c, k in order]
    assert torch.equal(pixels, torch.stack(expected))
    assert record["layout"].startswith("1 parquet file, columns im")


def test_a_folder_of_shards_is_one_set_without_its_held_out_split(tmp_path: Path) -> None:
    for shard, part in enumerate((slice(0, 9), slice(9, 20))):
        name = f"data/train-{shard:05d}-of-00002-0a1b.parquet"
        write(tmp_path / name, structs(CONTENTS[part]), numbers(KEYS[part]))
    write(tmp_path / "data/test-00000-of-00001.parquet", structs(CONTENTS), numbers())
    (tmp_path / "README.md").write_text("---\n---")
    found = open_set(tmp_path)
    assert torch.equal(found.images(KEYS)[0], torch.stack([*map(pixels_of, CONTENTS)]))
    dataset = open_dataset(load_settings("digits_quick", {}))
    assert infer_ipc(tmp_path, dataset) == 2
    write(tmp_path / "data/ipc50.parquet", structs(CONTENTS), numbers())
    with pytest.raises(UsageError, match="several sets, e.g. .*; name one file"):
        open_archive(tmp_path, dataset)


def test_numbers_follow_a_list_of_classes_and_names_do_not(tmp_path: Path) -> None:
    write(tmp_path / "a/data/train.parquet", structs(CONTENTS), [9 - c for c in numbers()])
    write(tmp_path / "b/train.parquet", structs(CONTENTS), numbers(), metadata=class_label(DIGITS))
    for name in "ab":
        (tmp_path / name / "classes.json").write_text(json.dumps(DIGITS[::-1]))
        pixels, _ = open_set(tmp_path / name).images(KEYS)
        assert torch.equal(pixels, torch.stack([*map(pixels_of, CONTENTS)]))


def test_only_the_row_groups_of_wanted_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = open_set(write(tmp_path / "set.parquet", structs(CONTENTS), numbers(), rows=4))
    read: list[int] = []
    original = pq.ParquetFile.read_row_group

    def spy(self: Any, group: int, **options: Any) -> Any:
        read.append(group)
        return original(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    found.images([(9, 1), (0, 1), (9, 0)])
    assert read == [4, 0]


def huge_png() -> bytes:
    """Return a small file that says to be 40,000 pixels square."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    header = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"\x89PNG\r\n\x1a\n" + header + CONTENTS[0][33:]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda f: write(f, structs(CONTENTS), numbers(), names=["image", "kind"]),
            "no column of labels, but image, kind; name it label",
        ),
        (
            lambda f: write(f, pa.array([[1]] * 20), numbers()),
            "no column of image files, but image, label; name it image",
        ),
        (lambda f: write(f, structs(CONTENTS), [-1, *numbers()[1:]]), "image 0 has the label -1, "),
        (lambda f: write(f, structs(CONTENTS), [0.5] * 20), "has the label 0.5"),
        (
            lambda f: write(f, structs(CONTENTS), numbers(), metadata=class_label(DIGITS[:9])),
            "image 18 has the label 9, which is neither",
        ),
        (
            lambda f: write(f, structs(CONTENTS), numbers(), metadata=class_label(["a"] * 10)),
            "two classes of 'label' have the same name",
        ),
        (
            lambda f: write(f, structs(CONTENTS), [c + 1 for c in numbers()]),
            "is numbered as class 10, which is not a class",
        ),
        (lambda f: f.write_bytes(b"version https://git-lfs.github.com/"), "git lfs pull"),
        (
            lambda f: f.write_bytes(write(f, structs(CONTENTS), numbers()).read_bytes()[:-9]),
            "cannot be read as parquet",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "set.parquet")
    with pytest.raises(UsageError, match=f"set.parquet.*{message}"):
        open_set(tmp_path / "set.parquet")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (huge_png(), "decompression bomb"),
        (None, "is empty, or only the path of an image"),
        (b"", "no image"),
        (b"x" * 2000, "more than any image should"),
    ],
)
def test_an_image_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str
) -> None:
    monkeypatch.setattr(parquet, "MAX_FILE_BYTES", 1500)
    path = write(tmp_path / "set.parquet", structs([*CONTENTS[:19], content]), numbers())
    found = open_set(path, resize=True)
    found.images(KEYS[:19])
    with pytest.raises(UsageError, match=f"set.parquet.*{message}"):
        found.images([(9, 1)])
