"""The rehearsal of the ImageNet preset with ten classes: by its own driver, kill and all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch

from benchmarks.rehearsal.drive import Rehearsal, leave_a_part, rehearse
from benchmarks.rehearsal.facts import facts
from benchmarks.rehearsal.record import rows
from benchmarks.rehearsal.scale import Place, Scale
from prism_nb.core.run import Run
from prism_nb.execution.verify import clean

SMALL = Scale(
    classes=10,
    image_size=32,
    steps=100,  # so that the kill has seconds to fall amid the units that take steps
    batch_size=10,
    students=("test_resnet",),
    stand_ins={
        "resnet18": "test_resnet",
        "mobilenet_v2": "test_byobnet",
        "efficientnet_b0": "test_efficientnet",
        "alexnet": "test_vit",
        "densenet121": "test_mambaout",
    },
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        folder = tmp_path_factory.mktemp("rehearsal")
        patch.setenv("PRISM_CACHE", str(folder / "cache"))
        yield rehearse(SMALL, Place(folder), lambda text: None)


def broken(found: Rehearsal) -> list[str]:
    return [fact.statement for fact in facts(found) if not fact.holds]


@contextmanager
def content(path: Path, other: bytes | None) -> Iterator[None]:
    """Give a file another content, or none, and put it back as it was, with its times."""
    kept = path.with_name(f"{path.name}.kept")
    times, mine = path.stat(), path.read_bytes()
    path.unlink() if other is None else path.write_bytes(other)
    try:
        yield
    finally:
        kept.write_bytes(mine)
        os.utime(kept, ns=(times.st_atime_ns, times.st_mtime_ns))
        kept.replace(path)


def test_all_facts_hold_after_a_kill(found: Rehearsal) -> None:
    assert [str(fact) for fact in facts(found) if not fact.holds] == []
    assert found.kept
    assert found.missing


def test_the_record_has_times_and_memory_of_every_notebook(found: Rehearsal) -> None:
    notebooks = [row for row in rows(found, facts(found)) if "notebook" in row]
    assert len(notebooks) == 6
    assert all(row["seconds"] is not None and row["peak_bytes"] > 1e8 for row in notebooks)


def test_a_missing_image_is_seen(found: Rehearsal) -> None:
    with content(found.place.run / "synthesis/sre2l/images/00003/00003_0001.png", None):
        assert broken(found) == ["sre2l has 10 x 2 images and no other file"]


def test_what_an_interrupted_write_leaves_is_removed_and_else_seen(found: Rehearsal) -> None:
    line = re.match(r"(\d+) files? of interrupted work removed", found.calls["verify"].output)
    assert line
    assert int(line[1]) >= 1  # the one that is always laid, and whatever the kill has hit
    leave_a_part(found)
    assert broken(found) == ["sre2l has 10 x 2 images and no other file"]
    clean(Run.open(found.place.run))
    assert broken(found) == []


def test_an_image_of_another_class_is_seen(found: Rehearsal) -> None:
    folder = found.place.run / "synthesis/random_real/images"
    with content(folder / "00003/00003_0001.png", (folder / "00007/00007_0001.png").read_bytes()):
        assert broken(found) == ["real images in the folders of their classes"]


def test_another_order_of_classes_is_seen_in_labels_too(found: Rehearsal) -> None:
    path = found.place.run / "classes.json"
    first, last = (found.scale.wnids[place].encode() for place in (0, -1))
    turned = path.read_bytes().replace(first, b"?").replace(last, first).replace(b"?", last)
    with content(path, turned):
        assert broken(found) == [
            "classes in the order of sorted wnids",
            "Every label file is whole, of these images and this order of classes",
        ]


def test_a_head_in_another_order_is_seen(found: Rehearsal) -> None:
    path = found.place.weights(found.reversed_head)
    weights = safetensors.torch.load_file(path)
    turned = {k: v.flip(0) if v.ndim == 2 else v for k, v in weights.items()}
    with content(path, safetensors.torch.save(turned)):
        assert broken(found) == ["heads in the order of the classes"]


def test_a_file_written_again_is_seen(found: Rehearsal) -> None:
    path = found.place.run / next(path for path in found.kept if path.endswith(".png"))
    with content(path, path.read_bytes()):
        assert broken(found) == ["files of finished units are kept"]


def test_a_unit_made_twice_and_a_kill_that_failed_are_seen(found: Rehearsal) -> None:
    assert broken(replace(found, missing=found.missing - 1)) == ["only missing units are made"]
    killed = replace(found.calls["killed"], status=0)
    calls = {**found.calls, "killed": killed}
    assert broken(replace(found, calls=calls)) == ["killed: exit status -9"]


def test_a_path_in_the_report_is_seen(found: Rehearsal) -> None:
    path = found.place.run / "figures/report.html"
    with content(path, path.read_bytes() + str(found.place.folder).encode()):
        assert broken(found) == ["the report has one local path, the setting data_dir"]


def test_a_larger_cache_of_held_out_images_is_seen(found: Rehearsal) -> None:
    (path,) = found.place.cache.glob("decoded/*.npy")
    with content(path, path.read_bytes() + bytes(200)):
        assert [words[:28] for words in broken(found)] == ["one cache of held-out images"]
