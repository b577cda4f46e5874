"""Stored labels: the loss of each encoding, and the files that are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from prism_nb.core import fileio
from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import label_path, method_units
from prism_nb.data.augment import BatchAugParams, epoch_params
from prism_nb.data.registry import open_dataset
from prism_nb.evaluation.label_store import LabelStore, decode, encode, label_bytes

CPU = torch.device("cpu")
METHOD, COUNT, CLASSES = "random_real", 20, 10


def random_logits(rows: int = 9, classes: int = 20, scale: float = 5.0) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(rows)) * scale


# -- encodings -------------------------------------------------------------------------------


def test_fp32_is_exact_and_fp16_is_rounded() -> None:
    logits = random_logits()
    assert torch.equal(decode(encode(logits, "fp32", top_k=3), 20), logits)
    assert torch.equal(decode(encode(logits, "fp16", top_k=3), 20), logits.half())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 40), st.floats(1e-3, 1e3))
def test_int8_is_within_half_a_level_of_each_row(rows: int, classes: int, scale: float) -> None:
    logits = random_logits(rows, classes, scale)
    decoded = decode(encode(logits, "int8", top_k=1), classes)
    level = (logits.amax(1) - logits.amin(1)) / 254
    assert ((decoded - logits).abs().amax(1) <= 0.501 * level + 1e-5 * scale).all()


def test_int8_keeps_a_constant_row() -> None:
    logits = torch.full((2, 5), 3.25)
    assert torch.equal(decode(encode(logits, "int8", top_k=1), 5), logits)


def test_top_k_spreads_the_remaining_probability_evenly() -> None:
    logits, count = random_logits(classes=20), 4
    decoded = decode(encode(logits, "top_k", top_k=count), 20)
    for row, found in zip(logits.double().tolist(), decoded.double().tolist(), strict=True):
        largest = sorted(range(20), key=lambda c: -row[c])[:count]
        total = sum(math.exp(value) for value in row)
        rest = 1 - sum(math.exp(row[c]) for c in largest) / total
        found_total = sum(math.exp(value) for value in found)
        for c in range(20):
            expected = math.exp(row[c]) / total if c in largest else rest / (20 - count)
            assert math.exp(found[c]) / found_total == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("count", [20, 50])
def test_top_k_of_all_classes_is_fp16(count: int) -> None:
    logits = random_logits()
    decoded = decode(encode(logits, "top_k", top_k=count), 20)
    assert torch.equal(decoded, logits.half().float())


@pytest.mark.parametrize("classes", [1000, 40_000])
def test_top_k_keeps_large_class_indices(classes: int) -> None:
    logits = torch.zeros(1, classes)
    logits[0, -1] = 9
    assert decode(encode(logits, "top_k", top_k=1), classes).argmax() == classes - 1


# -- files -----------------------------------------------------------------------------------


def begin(folder: Path, **changes: Any) -> Run:
    """Begin a run of two images per class, which are not needed to store labels."""
    values = {"methods": [METHOD], "image_size": 16, "ipc": 2, "label_epochs": 3, **changes}
    run = Run.create(folder, load_settings("digits_quick", values))
    run.write_classes(open_dataset(run.settings).class_records())
    return run


def labels_of(run: Run) -> tuple[BatchAugParams, Tensor]:
    logits = torch.randn(COUNT, CLASSES, generator=torch.Generator().manual_seed(0))
    return epoch_params(run.settings, COUNT, 0, CPU), logits


def save(run: Run, epoch: int = 0) -> Path:
    """Write an epoch's labels, the second half of the images first, and return the file."""
    params, logits = labels_of(run)
    blocks = [(rows, logits[rows]) for rows in torch.arange(COUNT).split(10)[::-1]]
    LabelStore(run, METHOD).save(epoch, params, blocks)
    return run.file(label_path(METHOD, epoch))


def test_equal_labels_are_equal_files(tmp_path: Path) -> None:
    run = begin(tmp_path / "a")
    assert len({save(run).read_bytes() for _ in range(20)}) == 1


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "top_k"])
def test_every_format_goes_through_a_file_of_the_planned_size(tmp_path: Path, kind: str) -> None:
    run = begin(tmp_path / "a", label_format=kind, label_top_k=9)
    size = sum(save(run, epoch).stat().st_size for epoch in range(3))
    planned = label_bytes(run.settings, COUNT, CLASSES)
    assert planned <= size <= planned + 3 * 1200  # a header has names, types and offsets
    (params, logits), loaded = labels_of(run), LabelStore(run, METHOD).load(0, CPU)
    assert loaded.logits is not None
    assert torch.equal(loaded.logits, decode(encode(logits, kind, top_k=9), CLASSES))
    for name, value in vars(params).items():
        found = getattr(loaded.params, name)
        assert found.dtype == value.dtype
        assert torch.equal(found, value)


Damage = Callable[[bytes], bytes]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda content: b"", "cannot be read"),
        (lambda content: content[:-100], "cannot be read"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "are damaged"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Damage, problem: str) -> None:
    run = begin(tmp_path / "a")
    path, store = save(run), LabelStore(run, METHOD)
    assert store.has(0)
    path.write_bytes(damage(path.read_bytes()))
    assert not store.has(0)
    with pytest.raises(PrismError, match=rf"epoch_0000.*{problem}.*run the relabel stage again"):
        store.load(0, CPU)


def other_class_order(run: Run) -> None:
    classes = open_dataset(run.settings).class_records()
    swapped = [classes[1], classes[0], *classes[2:]]
    records = [{**record, "index": index} for index, record in enumerate(swapped)]
    fileio.write_json(run.path / "classes.json", records)


def other_images(run: Run) -> None:
    (unit,) = method_units(run, METHOD, CLASSES)
    fileio.write_bytes(run.file("image.png"), b"image")
    run.units.finish(unit, paths=["image.png"], record={})


@pytest.mark.parametrize("change", [other_class_order, other_images])
def test_labels_of_something_else_are_refused(
    tmp_path: Path, change: Callable[[Run], None]
) -> None:
    run = begin(tmp_path / "a")
    save(run)
    change(run)
    store = LabelStore(run, METHOD)
    assert not store.has(0)
    with pytest.raises(PrismError, match="made from other images, networks, settings or another"):
        store.load(0, CPU)
