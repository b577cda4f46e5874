"""What verify reports as damaged, for any spoiled byte of a run, and what clean removes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from prism_nb.core import fileio
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.evaluation import label_store
from prism_nb.execution import pipeline, verify
from prism_nb.execution.verify import clean, verify_run
from tests.helpers.image_sets import begin_run

IMAGE = "synthesis/random_real/images/00003/00003_0001.png"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with images and labels."""
    changes = {"squeeze_epochs": 1, "label_epochs": 2, "holdout_networks": []}
    run = begin_run(tmp_path_factory.mktemp("verify"), feature_networks=["test_resnet"], **changes)
    for stage in ("squeeze", "relabel"):
        pipeline.execute(run, stage)
    return run


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    shutil.copytree(made.path, tmp_path / made.name)
    return Run(tmp_path / made.name, made.settings)


def found(run: Run) -> list[tuple[str, str]]:
    return [(each.kind, each.where) for each in verify_run(run).findings]


def test_a_whole_run_has_no_findings_and_its_units_are_counted(run: Run) -> None:
    report = verify_run(run)
    assert report.findings == ()
    assert report.intact["synthesis"] == (1, 1)
    assert report.intact["evaluation"][0] == 0 < report.intact["evaluation"][1]


def test_a_changed_image_is_damage_with_a_remedy(run: Run) -> None:
    path = run.file(IMAGE)
    path.write_bytes(path.read_bytes()[:-1])
    (finding,) = verify_run(run).findings
    assert finding.kind == "damaged"
    assert finding.where == "synthesis unit random_real/images000-001_classes000-009"
    assert "has changed" in finding.what
    assert "prism-nb run --run" in finding.remedy


def test_another_class_order_is_damage_that_names_the_class(run: Run) -> None:
    path = run.file("classes.json")
    order = json.loads(path.read_text())
    order[4]["name"] = "nine"
    fileio.write_json(path, order)
    finding = next(each for each in verify_run(run).findings if each.where == "classes.json")
    assert finding.kind == "damaged"
    assert (
        "at index 4: the run has {'folder': '4', 'index': 4, 'name': 'nine'}, the dataset"
        in finding.what
    )


def test_labels_of_other_images_are_damage_under_a_valid_marker(run: Run) -> None:
    (unit,) = pipeline.stage_units(run, "relabel")
    epoch = run.file("labels/random_real/epoch_0001.safetensors")
    content = bytearray(epoch.read_bytes())
    place = content.index(b"prism-nb labels") + 24
    content[place : place + 4] = b"beef"
    epoch.write_bytes(content)
    run.units.finish(unit, paths=run.units.files(unit), record={})
    assert found(run) == [("damaged", "labels unit random_real")]


def test_without_the_dataset_only_the_class_order_is_not_checked(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_dataset(_: object) -> None:
        raise PrismError("the disk is not there")

    for module in (verify, label_store):
        monkeypatch.setattr(module, "open_dataset", no_dataset)
    report = verify_run(run)
    assert [(each.kind, each.where) for each in report.findings] == [
        ("not checked", "classes.json")
    ]
    assert "the disk is not there" in report.findings[0].what
    assert report.damages == 0


SPOILS = ("cut", "overwrite", "insert", "repeat", "replace")
PATTERNS = (
    *("synthesis/**/*.png", "labels/*/*.safetensors", "teachers/*.safetensors"),  # in markers
    *("synthesis/*/units/*.json", "labels/*/unit.json", "teachers/units/*.json"),  # markers
    *("config.yaml", "classes.json", "manifest.json", "events/*.jsonl"),
)


@given(
    st.sampled_from(PATTERNS),
    st.integers(0, 99),
    st.sampled_from(SPOILS),
    st.floats(0, 1),
    st.binary(min_size=1, max_size=40),
)
@hypothesis_settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_spoiled_file_is_reported_or_harmless(
    made: Run, pattern: str, number: int, kind: str, share: float, extra: bytes
) -> None:
    files = sorted(made.path.glob(pattern))
    path = files[number % len(files)]
    good = path.read_bytes()
    at = int(share * len(good))
    spoiled = {
        "cut": good[:at],
        "overwrite": good[:at] + extra + good[at + len(extra) :],
        "insert": good[:at] + extra + good[at:],
        "repeat": good[:at] + good,
        "replace": extra,
    }[kind]
    path.write_bytes(spoiled)
    try:
        run = Run.open(made.path)
        # Other settings may name any number of units, so that only the reader is tried.
        damaged = path.name != "config.yaml" and verify_run(run).damages > 0
        run.events.read("relabel")
    except PrismError:
        damaged = True
    finally:
        path.write_bytes(good)
    if pattern in PATTERNS[:3]:
        assert damaged == (spoiled != good)
    elif pattern in PATTERNS[3:6] or path.name == "classes.json":
        assert damaged == (parsed(spoiled) != json.loads(good))


def parsed(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return None


def test_clean_removes_what_interrupted_writes_have_left(run: Run) -> None:
    part = run.file("labels/random_real/.epoch_0000.safetensors.abcd.part")
    part.write_bytes(b"half")
    assert clean(run) == 0  # a process may be writing it
    os.utime(part, (1, 1))
    assert found(run) == []

    assert clean(run) == 1
    assert not part.exists()
