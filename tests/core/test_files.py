"""Whole files or none."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError


def fail(*args: Any, **kwargs: Any) -> None:
    """Stand in for a system call on a full disk."""
    raise OSError(28, "No space left on device")


def interrupt(*args: Any, **kwargs: Any) -> None:
    """Stand in for a system call during which the user presses Ctrl-C."""
    raise KeyboardInterrupt


def names(folder: Path) -> list[str]:
    """Return the names of everything in a folder."""
    return sorted(path.name for path in folder.iterdir())


# -- writing ---------------------------------------------------------------------------------


def test_write_makes_the_folders_and_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    fileio.write_bytes(tmp_path / "a" / "b" / "x.bin", b"\x00new")
    assert (tmp_path / "a" / "b" / "x.bin").read_bytes() == b"\x00new"
    assert names(tmp_path / "a" / "b") == ["x.bin"]


def test_write_replaces_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    fileio.write_text(path, "a longer old text")
    fileio.write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "new"


def test_text_is_written_as_utf8(tmp_path: Path) -> None:
    fileio.write_text(tmp_path / "x.txt", "Größe ✓")
    assert (tmp_path / "x.txt").read_bytes() == "Größe ✓".encode()


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "replace")])
def test_failed_write_keeps_the_old_content_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, call: str
) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    monkeypatch.setattr(owner, call, fail)
    with pytest.raises(PrismError) as caught:
        fileio.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]
    assert f"cannot write {path}: No space left on device" in str(caught.value)
    assert "free some space" in str(caught.value)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_place_that_may_only_be_read_is_not_said_to_be_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PrismError, match="copy the run to a folder that you may write to") as found:
        fileio.write_text(tmp_path / "x.txt", "new")
    assert "free some space" not in str(found.value)


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "replace")])
def test_failed_first_write_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, call: str
) -> None:
    monkeypatch.setattr(owner, call, fail)
    with pytest.raises(PrismError):
        fileio.write_text(tmp_path / "x.txt", "new")
    assert names(tmp_path) == []


@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "replace")])
def test_interrupted_write_keeps_the_old_content_and_stays_an_interrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, call: str
) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    monkeypatch.setattr(owner, call, interrupt)
    with pytest.raises(KeyboardInterrupt):
        fileio.write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_content_is_on_disk_before_the_name_points_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(number: int) -> None:
        of_folder = stat.S_ISDIR(os.fstat(number).st_mode)
        assert of_folder == ("replace" in calls)
        calls.append("fsync")
        fsync(number)

    def noted_replace(path: Path, target: Path) -> Path:
        calls.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    fileio.write_text(tmp_path / "x.txt", "new")
    assert calls == ["fsync", "replace", "fsync"]  # the last one of the folder: its new name


def test_file_system_that_syncs_no_folders_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", fail)
    fileio.write_text(tmp_path / "x.txt", "new")
    assert (tmp_path / "x.txt").read_text() == "new"


def test_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("in the way")
    with pytest.raises(PrismError) as caught:
        fileio.write_text(tmp_path / "a" / "x.txt", "new")
    assert f"cannot write {tmp_path / 'a' / 'x.txt'}" in str(caught.value)


def test_target_that_is_a_folder_is_named_and_kept(tmp_path: Path) -> None:
    (tmp_path / "x.txt").mkdir()
    with pytest.raises(PrismError, match="cannot write"):
        fileio.write_text(tmp_path / "x.txt", "new")
    assert names(tmp_path) == ["x.txt"]


def test_json_of_equal_values_has_equal_bytes() -> None:
    assert fileio.json_bytes({"b": 1, "a": [2]}) == fileio.json_bytes({"a": [2], "b": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_number_that_json_lacks_is_refused_and_nothing_written(
    tmp_path: Path, value: float
) -> None:
    with pytest.raises(ValueError, match="JSON"):
        fileio.write_json(tmp_path / "x.json", {"loss": value})
    assert names(tmp_path) == []


def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "events" / "x.jsonl"
    fileio.append_line(path, "one")
    fileio.append_line(path, "two")
    assert path.read_text(encoding="utf-8") == "one\ntwo\n"


def test_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(PrismError) as caught:
        fileio.append_line(tmp_path / "x.jsonl", "one")
    assert f"cannot write {tmp_path / 'x.jsonl'}" in str(caught.value)


# -- reading ---------------------------------------------------------------------------------


def test_json_reads_back_what_was_written(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], "b": {"c": "Größe"}}
    fileio.write_json(tmp_path / "x.json", value)
    assert fileio.read_json(tmp_path / "x.json") == value


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe\xfa", b"{}{}"])
def test_damaged_json_reads_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    assert fileio.read_json(tmp_path / "x.json") is None


def test_missing_json_reads_as_none(tmp_path: Path) -> None:
    assert fileio.read_json(tmp_path / "x.json") is None


def test_folder_instead_of_json_reads_as_none(tmp_path: Path) -> None:
    assert fileio.read_json(tmp_path) is None


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "x.bin").write_bytes(content)
    assert fileio.sha256(tmp_path / "x.bin") == hashlib.sha256(content).hexdigest()


def test_sha256_of_what_cannot_be_read_is_empty(tmp_path: Path) -> None:
    assert fileio.sha256(tmp_path / "x.bin") == ""
    assert fileio.sha256(tmp_path) == ""


@pytest.mark.parametrize("name", ["missing", "a/b", "x" * 5000, "loop"])
def test_names_under_which_no_file_can_be_are_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_text("a file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = tmp_path / name
    assert fileio.read_json(path) is None
    assert fileio.sha256(path) == ""
    assert not fileio.is_file(path)


# -- one at a time ---------------------------------------------------------------------------


def test_changes_are_made_one_after_the_other(tmp_path: Path) -> None:
    path, within = tmp_path / "locks" / ".x", []

    def change() -> None:
        with fileio.exclusive_lock(path):
            within.append(1)
            assert len(within) == 1
            time.sleep(0.01)
            within.clear()

    threads = [threading.Thread(target=change) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not within


def test_lock_that_is_not_given_back_is_named(tmp_path: Path) -> None:
    path = tmp_path / ".x"
    with (
        fileio.exclusive_lock(path),
        pytest.raises(PrismError, match=f"{path} has been held .* delete that file"),
        fileio.exclusive_lock(path, patience=0.05),
    ):
        pass
