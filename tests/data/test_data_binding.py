"""What results are bound to: the images, not the place where they lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from prism_nb.core.errors import UsageError
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import network_unit
from prism_nb.data.registry import _open
from prism_nb.execution import open_run as open_run_module
from tests.helpers.image_trees import make_tree, picture

CLASSES = ("a", "b")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Open every dataset anew, as another process would."""
    monkeypatch.setenv("PRISM_CACHE", str(tmp_path / "cache"))
    _open.cache_clear()


def found(tmp_path: Path, tree: Path, **changes: object) -> Run:
    _open.cache_clear()
    return open_run_module.load_run(
        run_name="r",
        preset="digits_quick",
        runs_dir=tmp_path / "runs",
        changes={"dataset": "folder", "data_dir": str(tree), **changes},
    )


def fingerprint(run: Run) -> str:
    return network_unit(run.settings, run.settings.primary).fingerprint


def finish(run: Run) -> None:
    unit = network_unit(run.settings, run.settings.primary)
    Run.create(run.path, run.settings).units.finish(unit, paths=[], record={})


def test_a_moved_dataset_continues_its_run(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t", CLASSES)
    before = found(tmp_path, tree)
    finish(before)
    tree.rename(tmp_path / "moved")
    after = found(tmp_path, tmp_path / "moved")
    assert fingerprint(after) == fingerprint(before)
    assert Run.create(after.path, after.settings).settings.data_dir == str(tmp_path / "moved")


def test_another_dataset_binds_otherwise_and_mixes_with_nothing(tmp_path: Path) -> None:
    before = found(tmp_path, make_tree(tmp_path / "t", CLASSES))
    other = found(tmp_path, make_tree(tmp_path / "o", CLASSES, train=4))
    assert fingerprint(before) != fingerprint(other)
    finish(before)
    with pytest.raises(UsageError, match="dataset_hash is"):
        Run.create(other.path, other.settings)


def test_an_image_added_since_is_noticed_by_the_run(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t", CLASSES)
    run = found(tmp_path, tree)
    finish(run)
    picture(9, 9, 9).save(tree / "train" / "a" / "zz.png")
    again = found(tmp_path, tree)
    with pytest.raises(UsageError, match="dataset_hash is"):
        Run.create(again.path, again.settings)
    _open.cache_clear()
    with pytest.raises(UsageError, match="not those asked for"):
        open_run_module.open_run(run_name="r", runs_dir=tmp_path / "runs")


def test_images_left_out_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prism_nb.execution.open_run.preflight", lambda settings, run: None)
    tree = make_tree(tmp_path / "t", CLASSES)
    (tree / "val" / "b" / "bad.jpg").write_bytes(b"nothing")
    run = open_run_module.open_run(
        run_name="r",
        preset="digits_quick",
        runs_dir=tmp_path / "runs",
        changes={"dataset": "folder", "data_dir": str(tree), "skip_corrupt": True},
    )
    assert run.manifest.read()["images_left_out"] == ["val/b/bad.jpg"]


def test_settings_that_lead_to_the_same_images_are_free(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t", CLASSES)
    plain = found(tmp_path, tree)
    finish(plain)
    same = found(tmp_path, tree, class_list=["a", "b"], skip_corrupt=True, download=True)
    assert fingerprint(same) == fingerprint(plain)
    Run.create(same.path, same.settings)
    swapped = found(tmp_path, tree, class_list=["b", "a"])
    assert fingerprint(swapped) != fingerprint(plain)
    with pytest.raises(UsageError, match="dataset_hash is"):
        Run.create(swapped.path, swapped.settings)
