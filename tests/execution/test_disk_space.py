"""A run begins only where the disks have room for all that is left of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.units import Unit
from prism_nb.data.dataset import DatasetConfig
from prism_nb.data.image_folder import ImageFolder
from prism_nb.execution import disk_space, open_run, pipeline
from prism_nb.execution.disk_space import check_disk_space
from tests.helpers.image_trees import make_tree


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("PRISM_CACHE", str(tmp_path / "cache"))
    one = {key: ["test_resnet"] for key in ("teachers", "feature_networks", "students")}
    few = {"methods": ["random_real"], "holdout_networks": [], "squeeze_epochs": 1}
    changes = {**one, **few, "student_seeds": 1}
    return open_run.load_run(preset="digits_quick", runs_dir=tmp_path / "runs", changes=changes)


def set_free(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=size))


def remaining(run: Run) -> dict[str, int]:
    plans = [pipeline.plan(run, stage, verify_hashes=False) for stage in pipeline.STAGES]
    return {plan.stage: plan.disk_bytes for plan in plans}


def test_a_disk_too_small_for_all_stages_is_refused(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = remaining(run)
    assert parts["diversity"] == 0
    assert all(parts[s] for s in ("squeeze", "synthesis", "relabel", "evaluation"))
    set_free(monkeypatch, sum(parts.values()) - 1)
    with pytest.raises(PrismError, match=r"needs up to .* more at .*runs/digits_quick \(squeeze"):
        check_disk_space(run, parts, 0)
    set_free(monkeypatch, sum(parts.values()))
    check_disk_space(run, parts, 0)
    assert not run.path.exists()


def test_files_that_exist_need_no_room(run: Run) -> None:
    made = open_run.open_run(
        preset="digits_quick", runs_dir=run.path.parent, changes=run.settings.plain()
    )
    before = remaining(made)
    pipeline.execute(made, "squeeze")
    assert remaining(made) == {**before, "squeeze": 0}
    labels = made.file("labels/random_real/epoch_0000.safetensors")
    labels.parent.mkdir(parents=True)
    labels.write_bytes(bytes(1000))  # an epoch of a relabelling that was killed
    assert remaining(made)["relabel"] == before["relabel"] - 1000


def test_the_cache_needs_room_on_its_own_disk(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    set_free(monkeypatch, 5_000_000_000)
    with pytest.raises(PrismError, match=r"decoded images 5\.0 GB\), but 5\.0 GB are free"):
        check_disk_space(run, {"squeeze": 1}, 5_000_000_000)  # on one disk, both
    disks = iter(
        SimpleNamespace(stat=lambda disk=disk: SimpleNamespace(st_dev=disk)) for disk in (1, 2)
    )
    monkeypatch.setattr(disk_space, "_existing", lambda folder: next(disks, folder))
    with pytest.raises(PrismError, match=r"up to 6\.0 GB more at .*cache .*PRISM_CACHE to"):
        check_disk_space(run, {"squeeze": 1}, 6_000_000_000)


@pytest.fixture
def folder_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What `cache_bytes` reads of a run on a folder of 6 training and 4 held-out images."""
    monkeypatch.setenv("PRISM_CACHE", str(tmp_path / "cache"))
    dataset = ImageFolder(DatasetConfig("folder", 16, make_tree(tmp_path / "t")))
    monkeypatch.setattr(disk_space, "open_dataset", lambda _: dataset)
    return SimpleNamespace(settings=SimpleNamespace(image_size=16, ipc=1))


@pytest.mark.parametrize(
    ("stage", "params", "images"),
    [
        ("synthesis", {"method": "prism"}, 0),
        ("squeeze", {"network": "resnet18"}, 6 + 4),
        ("squeeze", {"network": "resnet18@DEFAULT"}, 4),
        ("squeeze", {"network": "resnet18", "patch": 4}, 4),
        ("squeeze", {"networks": ("resnet18", "resnet34")}, 4),
        ("evaluation", {"method": "prism"}, 4),
        ("evaluation", {"method": "real"}, 6 + 4),
    ],
)
def test_real_images_are_decoded_for_many_passes(
    folder_run: Run, stage: str, params: dict[str, object], images: int
) -> None:
    units = [Unit(stage, "a", "m", "b", params)]
    assert disk_space.cache_bytes(folder_run, units) == images * 3 * 16 * 16
