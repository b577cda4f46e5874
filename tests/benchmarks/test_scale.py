"""What large runs take: the page and the presets say what the code counts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import scale
from prism_nb import cli
from prism_nb.core.config import preset_names

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("preset", scale.PRESETS)
def test_the_head_of_a_preset_says_what_is_counted(preset: str, imagenet: scale.Arithmetic) -> None:
    text = (ROOT / f"notebooks/presets/{preset}.yaml").read_text(encoding="utf-8")
    shared = preset.startswith("imagenet1k")  # one class count and size
    for line in scale.head_lines(preset, imagenet if shared else scale.counter(preset)):
        assert line in text.splitlines()


def test_every_preset_that_is_no_demo_says_what_it_takes() -> None:
    demos = {"digits", "digits_quick"}  # minutes on a CPU, as their heads say
    assert {*scale.PRESETS} == {*preset_names()} - demos


def test_the_table_says_what_is_counted(imagenet: scale.Arithmetic) -> None:
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8").splitlines()
    assert scale.HEAD in page
    assert sum(line.startswith("| ImageNet-") for line in page) == len(scale.SCALES)
    asked = [each for each in scale.SCALES if each.ipc == 1]  # one of each size; more take longer
    for line in scale.scale_lines(imagenet, asked):
        assert line in page


@pytest.fixture(scope="module")
def imagenet() -> scale.Arithmetic:
    return scale.counter()


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[object, str, str]:
    monkeypatch.setattr(sys, "argv", ["prism-nb", *arguments])
    code: object = 0
    try:
        cli.main()
    except SystemExit as left:
        code = left.code
    return code, *capsys.readouterr()


def test_counting_needs_neither_images_nor_weights_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    words = "plan imagenet1k_ipc1 --count --at 400 --size 7,70,14 --set methods=[sre2l]"
    words += " --set students=[shufflenet_v2_x0_5]"
    code, out, _ = call(monkeypatch, capsys, *words.split(), "--runs-dir", str(tmp_path / "runs"))
    assert code == 0
    assert "7 classes, 70 training and 14 held-out images, 224 px" in out
    # 4,000 steps of seven images, forward and back to them, by a head of 7 classes
    steps = 4000 * 7 * 2 * (3_628_146_688 - 2 * 512 * (1000 - 7)) / 1e15
    row = next(line.split() for line in out.splitlines() if "synthesis" in line)
    assert row == ["synthesis", "sre2l", "1", "8", "0.00", "0.2", f"{steps:.2f}", "0.0"]
    assert "assumed 400 TFLOP/s" in out
    assert list(tmp_path.iterdir()) == []


def test_a_plan_without_images_names_the_way_that_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--runs-dir", str(tmp_path / "runs")]
    code, _, err = call(monkeypatch, capsys, "plan", "imagenet1k_ipc50", *arguments)
    assert code == 2
    assert "needs data_dir" in err
    assert "or add --count, which needs no images" in err
    unknown = ["--set", "dataset=digit", *arguments]
    _, _, err = call(monkeypatch, capsys, "plan", "digits_quick", *unknown)
    assert "unknown dataset 'digit'" in err
    assert "--count" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--at 5", "--at and --size go with --count"),
        ("--size 1,2,3", "--at and --size go with --count"),
        ("--count --size 10,20", "give classes, training and held-out images"),
        ("--count --size 0,20,3", "give classes, training and held-out images"),
        ("--count --at 0", "0.0 is not in the range"),
        ("--count --set dataset=folder", "--size"),
    ],
)
def test_counts_that_cannot_be_meant_are_refused(
    words: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["plan", "digits_quick", *words.split(), "--runs-dir", str(tmp_path / "runs")]
    code, _, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []
