"""The run directory: settings, class order and paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prism_nb.core import fileio
from prism_nb.core.config import load_settings
from prism_nb.core.errors import PrismError, UsageError
from prism_nb.core.run import Run
from prism_nb.core.settings import STAGES, Settings

_RESULTS = {
    "squeeze": "teachers/units/test_resnet.json",
    "synthesis": "synthesis/prism/units/images000-001_classes000-009.json",
    "diversity": "diversity/prism.json",
    "relabel": "labels/prism/unit.json",
    "evaluation": "evaluation/prism/test_resnet-seed0/unit.json",
    "report": "figures/report.html",
}


def quick(**changes: Any) -> Settings:
    """Return the quick preset's settings with some changes."""
    return load_settings("digits_quick", changes)


def pretend_results(run: Run, *stages: str) -> None:
    """Make it look as if stages had finished a unit."""
    for stage in stages:
        fileio.write_text(run.path / _RESULTS[stage], "{}")


def test_a_created_run_opens_and_is_not_written_again(run: Run, settings: Settings) -> None:
    assert Run.open(run.path).settings == settings
    before = (run.path / "config.yaml").stat()
    Run.create(run.path, settings)
    after = (run.path / "config.yaml").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_missing_run_is_refused_with_the_nearest(run: Run) -> None:
    Run.create(run.path.parent / "digits_demo", run.settings)
    with pytest.raises(UsageError, match="no run at .*did you mean 'digits_demo'"):
        Run.open(run.path.parent / "digit_demo")


def test_images_that_move_with_the_run_are_found(tmp_path: Path) -> None:
    images = tmp_path / "here" / "images"
    images.mkdir(parents=True)
    begun = Run.create(tmp_path / "here/clone/r", quick(dataset="folder", data_dir=str(images)))
    (tmp_path / "here").rename(tmp_path / "there")
    for _ in range(2):
        moved = Run.open(tmp_path / "there/clone/r")
        assert moved.settings.data_dir == str(tmp_path / "there/images")
        Run.create(moved.path, moved.settings)
    Run.create(moved.path, moved.settings.model_copy(update={"seed": 7}))
    (tmp_path / "there").rename(tmp_path / "anywhere")
    moved = Run.open(tmp_path / "anywhere/clone/r")
    assert moved.settings.data_dir == str(tmp_path / "anywhere/images")
    (tmp_path / "anywhere/images").rename(tmp_path / "gone")
    assert Run.open(moved.path).settings.data_dir == str(tmp_path / "there/images")
    images.mkdir(parents=True)
    (tmp_path / "anywhere/clone").rename(tmp_path / "here/clone")
    assert Run.open(begun.path).settings.data_dir == str(images)


@pytest.mark.parametrize("name", [".hidden", "-dash", "größe", "a:b", "a\nb", "x" * 101])
def test_unsafe_names_are_refused(tmp_path: Path, settings: Settings, name: str) -> None:
    with pytest.raises(UsageError, match="use letters, digits, dot, dash and underscore"):
        Run.create(tmp_path / name, settings)
    assert list(tmp_path.iterdir()) == []


def test_settings_may_change_before_results(run: Run) -> None:
    run.with_settings(quick(ipc=5, seed=3))
    assert Run.open(run.path).settings == quick(ipc=5, seed=3)


def test_changed_settings_are_refused_once_results_exist(run: Run) -> None:
    pretend_results(run, *STAGES)
    with pytest.raises(UsageError) as caught:
        run.with_settings(quick(ipc=5, squeeze_lr=0.25))
    message = str(caught.value)
    assert "ipc is 2 in the run, 5 is requested" in message
    assert "squeeze_lr is 0.003 in the run, 0.25 is requested" in message
    assert "seed" not in message
    assert "Choose another run name" in message


_DECIDED = {
    "seed": (1, set(STAGES)),
    "dataset": ("folder", set(STAGES)),
    "squeeze_epochs": (9, set(STAGES)),
    "teachers": (["test_resnet", "test_coatnet"], set(STAGES) - {"squeeze"}),
    "primary": ("test_coatnet", set(STAGES) - {"squeeze"}),
    "ipc": (5, set(STAGES) - {"squeeze"}),
    "recipe": ({"lr": 0.5}, set(STAGES) - {"squeeze"}),
    "label_epochs": (20, {"relabel", "evaluation", "report"}),
    "label_teachers": (["test_coatnet"], {"relabel", "evaluation", "report"}),
    "student_lr": (0.5, {"evaluation", "report"}),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("name", _DECIDED)
def test_settings_are_bound_by_the_stages_they_decide(run: Run, name: str, stage: str) -> None:
    value, stages = _DECIDED[name]
    pretend_results(run, stage)
    changed = quick(**{name: value})
    if stage in stages:
        with pytest.raises(UsageError, match=rf" {name}(\.lr)? is "):
            run.with_settings(changed)
    else:
        assert run.with_settings(changed).settings == changed


def test_label_teachers_may_be_written_out(run: Run) -> None:
    pretend_results(run, "relabel")
    written = quick(label_teachers=list(run.settings.teachers))
    assert run.with_settings(written).settings == written


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": ["prism"]},
        {"students": ["test_resnet", "test_mambaout", "test_coatnet"]},
        {"student_seeds": 5},
        {"holdout_networks": ["test_mambaout", "test_vit"]},
        {"feature_networks": ["test_coatnet"]},
        {"device": "cpu"},
        {"progress": False},
        {"recipes": {"prism": {"title": "Ours"}}},
        {"methods": ["prism", "mine"], "recipes": {"mine": {"base": "prism", "lr": 0.5}}},
    ],
)
def test_extending_machine_and_text_settings_may_change(run: Run, changes: dict[str, Any]) -> None:
    pretend_results(run, *STAGES)
    run.with_settings(quick(**changes))
    assert Run.open(run.path).settings == quick(**changes)


@pytest.mark.parametrize("stage", ["synthesis", "diversity", "relabel", "evaluation"])
def test_a_recipe_is_bound_by_its_methods_results(run: Run, stage: str) -> None:
    pretend_results(run, stage)  # of prism
    with pytest.raises(
        UsageError, match=r"recipes\.prism\.lr is the default in the run, 0\.5 is requested"
    ):
        run.with_settings(quick(recipes={"prism": {"lr": 0.5}}))
    run.with_settings(quick(recipes={"sre2l": {"lr": 0.5}}))
    run.with_settings(quick(recipes={"sre2l": {"lr": 0.7}}))


@pytest.mark.parametrize("relative", ["../x", "a/../../x", "/etc/passwd", "..", "link/x"])
def test_paths_that_leave_the_run_are_refused(run: Run, relative: str) -> None:
    assert run.file("a/b.png") == run.path / "a" / "b.png"
    (run.path / "link").symlink_to(run.path.parent)
    with pytest.raises(UsageError, match="leaves the run"):
        run.file(relative)


# -- classes and versions --------------------------------------------------------------------


def class_of(index: int, name: str) -> dict[str, Any]:
    return {"index": index, "folder": str(index), "name": name}


_CLASSES = [class_of(0, "zero"), class_of(1, "one")]


@pytest.mark.parametrize("content", ["x", "{}", "[]", "[1, 2]", '[{"index": 0}]', "null"])
def test_damaged_classes_are_refused(run: Run, content: str) -> None:
    (run.path / "classes.json").write_text(content, encoding="utf-8")
    with pytest.raises(PrismError, match="classes.json is damaged; delete that file"):
        run.read_classes()
    with pytest.raises(PrismError, match="is damaged"):
        run.write_classes(_CLASSES)


@pytest.mark.parametrize(
    ("classes", "difference"),
    [
        ([_CLASSES[0], class_of(1, "uno")], "at index 1: the run has .*'one'.*'uno'"),
        (_CLASSES[:1], "at index 1"),
        ([*_CLASSES, class_of(2, "two")], "at index 2"),
    ],
)
def test_another_class_order_is_refused(
    run: Run, classes: list[dict[str, Any]], difference: str
) -> None:
    for _ in range(2):
        run.write_classes(_CLASSES)
    with pytest.raises(PrismError, match=difference):
        run.write_classes(classes)
    assert run.read_classes() == _CLASSES


def test_runs_of_other_versions_are_refused(run: Run) -> None:
    with (run.path / "config.yaml").open("a") as file:
        file.write("hologram: true\n")
    with pytest.raises(UsageError, match="another version made the run; begin a new one"):
        Run.open(run.path)
