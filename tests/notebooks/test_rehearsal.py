"""The rehearsal of the ImageNet preset with ten classes, kill and all; its checks find damage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch

from benchmarks.rehearsal.drive import Rehearsal, make_files, rehearse
from benchmarks.rehearsal.facts import facts
from prism_nb.core.errors import UsageError


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    small = Rehearsal(
        tmp_path_factory.mktemp("rehearsal"),
        classes=10,
        image_size=32,
        steps=50,  # so that the kill has seconds to fall amid the units that take steps
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
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PRISM_CACHE", str(small.cache))
        rehearse(small)
        yield small


def broken(found: Rehearsal) -> list[str]:
    return [fact.statement for fact in facts(found) if not fact.holds]


@contextmanager
def content(path: Path, other: bytes | None) -> Iterator[None]:
    """Give a file another content, or none, and restore it with its times."""
    kept = path.with_name(f"{path.name}.kept")
    times, mine = path.stat(), path.read_bytes()
    path.unlink() if other is None else path.write_bytes(other)
    try:
        yield
    finally:
        kept.write_bytes(mine)
        os.utime(kept, ns=(times.st_atime_ns, times.st_mtime_ns))
        kept.replace(path)


INTACT = "all units, classes and labels are intact"
COMPLETE = "sre2l has 10 x 2 images and no other file"


def test_all_facts_hold_after_a_kill(found: Rehearsal) -> None:
    assert [fact for fact in facts(found) if not fact.holds] == []


def test_missing_misplaced_and_other_images_are_found(found: Rehearsal) -> None:
    folder = found.run / "synthesis/sre2l/images/00003"
    with content(folder / "00003_0001.png", None):
        assert broken(found) == [INTACT, COMPLETE]
    (folder / "other.png").touch()
    assert broken(found) == [COMPLETE]
    (folder / "other.png").unlink()
    folder = found.run / "synthesis/random_real/images"
    with content(folder / "00003/00003_0001.png", (folder / "00007/00007_0001.png").read_bytes()):
        assert broken(found) == [INTACT, "real images in the folders of their classes"]


def test_another_order_of_classes_is_found(found: Rehearsal) -> None:
    path = found.run / "classes.json"
    first, last = (found.wnids[place].encode() for place in (0, -1))
    swapped = path.read_bytes().replace(first, b"?").replace(last, first).replace(b"?", last)
    with content(path, swapped):
        assert INTACT in broken(found)
    path = found.weights(found.reversed_head)
    weights = safetensors.torch.load_file(path)
    turned = {k: v.flip(0) if v.ndim == 2 else v for k, v in weights.items()}
    with content(path, safetensors.torch.save(turned)):
        assert "heads in the order of the classes" in broken(found)


def test_a_unit_made_twice_is_found(found: Rehearsal) -> None:
    path = found.run / "events/synthesis.jsonl"
    with content(path, path.read_bytes() * 2):
        assert broken(found) == ["synthesis: every unit is made once"]


def test_a_folder_with_other_files_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is no rehearsal"):
        make_files(Rehearsal(tmp_path))
    assert (tmp_path / "thesis.tex").exists()
