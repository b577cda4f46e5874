"""The generated image tree: its modes and oddities are there, its classes can be seen."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.rehearsal.drive import clear
from benchmarks.rehearsal.scale import PRESET, Place, Scale, changes
from benchmarks.rehearsal.tree import KINDS, LARGE, Kind, image_file, make_tree, numbers_shown
from prism_nb.core.config import read_preset
from prism_nb.core.errors import UsageError
from prism_nb.data.image_io import read_image

WNIDS = ("n01440764", "n01443537", "n01484850")


def opened(kind: Kind, label: int = 0) -> Image.Image:
    return Image.open(io.BytesIO(image_file(label, kind, seed=(0, 0))))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    assert make_tree(root, WNIDS, train=7, val=2) == 27
    return root


def hashes(root: Path) -> dict[str, str]:
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def test_every_mode_and_form_is_in_the_tree(tree: Path) -> None:
    found = {(i.mode, i.format) for i in map(Image.open, tree.rglob("*.JPEG"))}
    assert found == {(kind.mode, kind.form) for kind in KINDS.values()}
    assert {mode for mode, _ in found} == {"RGB", "L", "CMYK", "RGBA", "P"}


def test_sizes_are_varied_tiny_and_large(tree: Path) -> None:
    sides = [side for path in tree.rglob("*.JPEG") for side in Image.open(path).size]
    assert min(sides) <= 30
    assert max(sides) >= 1500
    assert len(set(sides)) > 20


def test_turned_images_say_so_and_others_do_not() -> None:
    turns = {opened(KINDS["turned"], label).getexif().get(0x0112) for label in range(40)}
    assert turns == set(range(2, 9))
    assert 0x0112 not in opened(KINDS["colour"]).getexif()


def test_transparent_images_are_transparent_at_the_edge_alone() -> None:
    alpha = np.asarray(opened(KINDS["transparent"]))[..., 3]
    assert alpha[0, 0] == 0
    assert alpha[alpha.shape[0] // 2, alpha.shape[1] // 2] == 255


def test_the_tree_is_the_same_every_time_and_no_file_twice(tree: Path, tmp_path: Path) -> None:
    make_tree(tmp_path, WNIDS, train=7, val=2)
    assert hashes(tmp_path) == hashes(tree)
    assert len(set(hashes(tree).values())) == 27


@pytest.mark.parametrize("kind", [*KINDS.values(), LARGE], ids=[*KINDS, "large"])
@pytest.mark.parametrize("size", [32, 72])
def test_a_class_can_be_seen_in_any_kind_of_file(kind: Kind, size: int, tmp_path: Path) -> None:
    numbers = [0, 999] if kind is LARGE else [0, 9, 90, 123, 456, 789, 909, 998, 999]
    for number in numbers:
        (tmp_path / f"{number}.JPEG").write_bytes(image_file(number, kind, seed=(1, 5)))
    pixels = np.stack([read_image(tmp_path / f"{n}.JPEG", size) for n in numbers])
    assert numbers_shown(pixels.transpose(0, 3, 1, 2)).tolist() == numbers


def test_a_rehearsal_changes_files_sizes_and_counts_alone(tmp_path: Path) -> None:
    preset, changed = read_preset(PRESET), changes(Scale(), Place(tmp_path))
    assert "methods" not in changed
    assert "class_list" not in changed
    for role in ("teachers", "holdout_networks", "label_teachers", "feature_networks"):
        ours, theirs = (
            [n.partition("@")[0] for n in names] for names in (changed[role], preset[role])
        )
        assert ours == theirs
    assert changed["primary"].partition("@")[0] == preset["primary"].partition("@")[0]
    assert set(changed["students"]) < set(preset["students"])


def test_a_folder_with_something_else_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="something else than a rehearsal"):
        clear(tmp_path)
    assert (tmp_path / "thesis.tex").exists()
