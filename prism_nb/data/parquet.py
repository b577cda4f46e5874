"""Images and labels in parquet files, in the layout of Hugging Face's `datasets`.

An image is a struct of `bytes`, the content of an image file, and `path`; the schema's metadata
names the classes of integer labels. Source: the features `Image` and `ClassLabel` of
https://huggingface.co/docs/datasets.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from prism_nb.core.errors import UsageError
from prism_nb.data.image_archive import MAX_FILE_BYTES, ImageArchive, damage
from prism_nb.data.image_folder import HELD_OUT

PARQUET = ".parquet"
_METADATA = "huggingface"  # key in the metadata of a schema
_ROWS = 100  # of a row group, as `datasets` writes images
_IMAGES = ("image", "img", "images", "jpg", "png", "webp")  # columns, preferred ones first
_LABELS = ("label", "labels", "fine_label", "class_id", "class", "target", "cls", "y")
_NUMBER = re.compile(r"(?:^|[-_./])\d+(?:-of-\d+.*)?$")  # what tells apart the files of a split


class ParquetSet(ImageArchive):
    """Parquet files as an archive that has an image `<label>/<row>.png` for every row.

    Integers are replaced by their names in the schema (`ClassLabel`), if it has any. Labels are
    read at once, images when they are needed. `names` are the files where `path` is a folder.

    Raises:
        UsageError: A file is damaged or lacks a column, or a label is none.
    """

    def __init__(self, path: Path, names: Sequence[str] = ()) -> None:
        self.path = path
        files = [path / name for name in _training_files(path, names)] if names else [path]
        self._rows: dict[str, tuple[Path, int, int]] = {}  # file, row group, row in the group
        self._image: dict[Path, str] = {}
        classes: Sequence[str] = ()
        for file in files:
            with _open(file) as opened:
                self._image[file], label = _columns(opened.schema_arrow, file)
                feature = _features(opened.schema_arrow).get(label, {})
                classes = [str(name) for name in feature.get("names") or ()]
                if len({*classes}) < len(classes):
                    raise UsageError(f"{file}: two classes of {label!r} have the same name")
                for group in range(opened.num_row_groups):
                    values = opened.read_row_group(group, columns=[label])[label].to_pylist()
                    for row, value in enumerate(values):
                        number = len(self._rows)
                        name = f"{_class_folder(value, classes, file, number)}/{number:08d}.png"
                        self._rows[name] = file, group, row
        # A list of class folders says what numbers stand for; names say it themselves.
        self.names = [*self._rows, *(() if classes else names)]
        count = f"{len(files)} parquet file{'s' if files[1:] else ''}"
        self.note = f"{count}, columns {self._image[file]} and {label}: "

    def contents(self, names: Sequence[str]) -> Iterator[bytes]:
        """Yield the content of images; each row group is read once."""
        wanted = defaultdict[tuple[Path, int], dict[int, str]](dict)
        for name in names:
            file, group, row = self._rows[name]
            wanted[file, group][row] = name
        found: dict[str, bytes] = {}
        for (file, group), rows in wanted.items():
            with _open(file) as opened:
                column = opened.read_row_group(group, columns=[self._image[file]]).column(0)
                for row, name in rows.items():
                    found[name] = _content(column[row].as_py(), name)
        yield from (found[name] for name in names)


def _training_files(path: Path, names: Sequence[str]) -> list[str]:
    """Return the parquet files of a folder that are of one split, which is not held out."""
    splits = defaultdict[str, list[str]](list)
    for name in names:
        if name.lower().endswith(PARQUET):
            splits[_NUMBER.sub("", name[: -len(PARQUET)])].append(name)
    training = [each for each in splits if each.rpartition("/")[2] not in HELD_OUT] or [*splits]
    if len(training) > 1:
        examples = " and ".join(splits[each][0] for each in training[:2])
        raise UsageError(
            f"{path} holds several sets, e.g. {examples}; name one file, or a folder of one set"
        )
    return splits[training[0]]


@contextmanager
def _open(file: Path) -> Iterator[pq.ParquetFile]:
    """Open a file; damage is refused, also what shows while it is read."""
    try:
        with pq.ParquetFile(file) as opened:
            yield opened
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise damage(file, "parquet", error) from None


def _columns(schema: pa.Schema, file: Path) -> tuple[str, str]:
    """Return the names of the columns of images and of labels."""
    classes = {n for n, kind in _features(schema).items() if kind.get("_type") == "ClassLabel"}
    kinds = {field.name: str(field.type) for field in schema}  # e.g. struct<bytes: binary, ...>
    images = [n for n, kind in kinds.items() if "binary" in kind and "list<" not in kind]
    labels = [name for name in schema.names if name in classes | {*_LABELS}]
    found = []
    for what, fitting, names in (("image files", images, _IMAGES), ("labels", labels, _LABELS)):
        named = [name for name in names if name in fitting]
        if not named and len(fitting) != 1:
            raise UsageError(
                f"{file} has no column of {what}, but {', '.join(schema.names) or 'none'}; name it "
                f"{' or '.join(names[:4])}"
            )
        found.append((named or fitting)[0])
    return found[0], found[1]


def _features(schema: pa.Schema) -> dict[str, dict[str, Any]]:
    """Return what the metadata of a schema says of its columns."""
    try:
        found = json.loads(schema.metadata[_METADATA.encode()])["info"]["features"]
        return {name: feature for name, feature in found.items() if isinstance(feature, dict)}
    except (TypeError, KeyError, ValueError, AttributeError):  # none, or another program's
        return {}


def _class_folder(value: Any, classes: Sequence[str], file: Path, row: int) -> str:
    """Return a label as the name of a class folder."""
    text = value if isinstance(value, str) else ""
    if isinstance(value, int) and 0 <= value < (len(classes) or value + 1):
        text = classes[value] if classes else str(value)
    if not text:
        raise UsageError(
            f"{file}: image {row} has the label {value!r}, which is neither a class number from 0 "
            "nor a name"
        )
    return text.replace("/", " ").replace("\\", " ")


def _content(value: Any, name: str) -> bytes:
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None:
        raise ValueError(f"{name} is empty, or only the path of an image")
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{name} has {len(content) / 1e6:.0f} MB, more than any image should")
    return bytes(content)


# -- writing ---------------------------------------------------------------------------------


def write_parquet(
    file: BinaryIO, images: Sequence[tuple[Path, int]], classes: Sequence[str]
) -> None:
    """Write image files and their class indices, row group by row group.

    `images` are path and class index of each; the names of the classes are all different.
    """
    label = {"_type": "ClassLabel", "names": [*classes]}
    info = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", pa.int64())], {_METADATA: json.dumps(info)})
    with pq.ParquetWriter(file, schema, compression="none") as writer:  # images hardly compress
        for start in range(0, len(images), _ROWS):
            rows = [
                {"image": {"bytes": path.read_bytes(), "path": path.name}, "label": index}
                for path, index in images[start : start + _ROWS]
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def card_entries(classes: Sequence[str]) -> dict[str, Any]:
    """Return the entries of a dataset card by which `datasets` reads `data/train-*`."""
    names = {str(index): name for index, name in enumerate(classes)}
    features = [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": names}}},
    ]
    files = [{"split": "train", "path": "data/train-*"}]
    return {
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"features": features},
    }
