"""Atomic writes and careful reads."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from unittest.mock import Mock

import pytest

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError


def names(folder: Path) -> list[str]:
    """Return the names of everything in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_write_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    fileio.write_bytes(tmp_path / "a" / "b" / "x.bin", b"\x00new")
    assert (tmp_path / "a" / "b" / "x.bin").read_bytes() == b"\x00new"
    assert names(tmp_path / "a" / "b") == ["x.bin"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize(("owner", "call"), [(os, "fsync"), (Path, "replace")])
def test_a_failed_or_interrupted_write_keeps_the_old_content(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    call: str,
    error: BaseException,
) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    monkeypatch.setattr(owner, call, Mock(side_effect=error))
    with pytest.raises((PrismError, KeyboardInterrupt)) as caught:
        fileio.write_text(path, "new")
    message = f"cannot write {path}: No space left; free some space" if error.args else ""
    assert message in str(caught.value)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_content_is_on_disk_before_its_name(
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        fileio.write_json(tmp_path / "x.json", {"loss": value})
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe\xfa", b"{}{}"])
def test_damaged_json_reads_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    assert fileio.read_json(tmp_path / "x.json") is None


@pytest.mark.parametrize("name", ["missing", "a/b", "x" * 5000, "loop"])
def test_impossible_names_are_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / "a").write_text("a file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = tmp_path / name
    assert fileio.read_json(path) is None
    assert fileio.sha256(path) == ""
    assert not fileio.is_file(path)


def test_a_lock_that_is_not_released_is_named(tmp_path: Path) -> None:
    path = tmp_path / ".x"
    with (
        fileio.exclusive_lock(path),
        pytest.raises(PrismError, match=f"{path} has been held .* delete that file"),
        fileio.exclusive_lock(path, timeout=0.05),
    ):
        pass


def test_json_reads_back_equal_and_is_deterministic(tmp_path: Path) -> None:
    value = {"b": {"c": "Größe"}, "a": [1, 2.5, None, True]}
    fileio.write_json(tmp_path / "x.json", value)
    fileio.write_json(tmp_path / "x.json", {"a": value["a"], "b": value["b"]})
    assert fileio.read_json(tmp_path / "x.json") == value
    assert (tmp_path / "x.json").read_bytes() == fileio.json_bytes(value)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("in the way")
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(PrismError, match="cannot write .*/a/x.txt"):
        fileio.write_text(tmp_path / "a" / "x.txt", "new")
    with pytest.raises(PrismError, match=r"cannot write .*/x\.jsonl"):
        fileio.write_text(tmp_path / "x.jsonl", "new")
    with pytest.raises(PrismError, match=r"cannot write .*/x\.jsonl"):
        fileio.append_line(tmp_path / "x.jsonl", "one")
    assert names(tmp_path) == ["a", "x.jsonl"]
