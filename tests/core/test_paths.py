"""Folders of the kit, and paths as users give them."""

from pathlib import Path

import pytest

from prism_nb.core.config import load_settings
from prism_nb.core.paths import absolute_path, default_cache_dir, default_runs_dir, runs_folder


def test_folders_of_runs_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks" / "presets").mkdir(parents=True)
    monkeypatch.setenv("PRISM_HOME", str(tmp_path))
    assert default_runs_dir() == tmp_path / "data" / "runs"
    monkeypatch.delenv("PRISM_CACHE")
    assert default_cache_dir() == tmp_path / "data" / "cache"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRISM_RUNS", "elsewhere")
    assert default_runs_dir() == runs_folder(None) == tmp_path / "elsewhere"
    assert runs_folder("~/runs") == Path.home() / "runs"


def test_paths_depend_on_no_folder_that_they_do_not_lead_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path / "clone"
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    clone.mkdir()
    (clone / "link").symlink_to(tmp_path / "disk" / "deep")
    monkeypatch.chdir(clone)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DISK", str(tmp_path / "disk"))
    images = tmp_path / "images"
    for given in ("../images", "../clone/./../images", "~/images", "$HOME/images", str(images)):
        assert absolute_path(given) == images
    assert absolute_path("link/../x") == tmp_path / "disk" / "x"  # as the system resolves it
    assert absolute_path("link/x") == clone / "link" / "x"
    assert absolute_path("${DISK}/../clone/link") == clone / "link"
    assert absolute_path("$UNKNOWN/~x") == clone / "$UNKNOWN" / "~x"
    assert absolute_path("~nobody.of.this.name/x") == clone / "~nobody.of.this.name" / "x"
    assert load_settings("digits_quick", {"data_dir": "../images"}).data_dir == str(images)
