"""Readers of what lies on a disk: whatever the bytes, a value, nothing, or one message."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_sets import begin_run

from prism_nb import files, pipeline
from prism_nb.artifacts.labels import LabelStore
from prism_nb.config import load_settings
from prism_nb.errors import PrismError
from prism_nb.leases import Owner, is_alive
from prism_nb.run import Run
from prism_nb.teachers.checkpoints import read_note, read_weights

Spoil = Callable[[bytes], bytes]
MANY = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
LABELS = "labels/random_real/epoch_0000.safetensors"


def complaint_of(read: Callable[[], object]) -> str:
    """Return what the kit says; any other error is the test's failure."""
    try:
        read()
    except PrismError as error:
        return str(error)
    return ""


@st.composite
def spoilt(draw: st.DrawFn) -> Spoil:
    """Cut, overwrite, insert or repeat somewhere; or something else altogether."""
    kind = draw(st.sampled_from(["cut", "overwrite", "insert", "repeat", "other"]))
    where, extra = draw(st.floats(0, 1)), draw(st.binary(min_size=1, max_size=40))

    def spoil(content: bytes) -> bytes:
        place = int(where * len(content))
        return {
            "cut": content[:place],
            "overwrite": content[:place] + extra + content[place + len(extra) :],
            "insert": content[:place] + extra + content[place:],
            "repeat": content[:place] + content,
            "other": extra,
        }[kind]

    return spoil


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    changes = {"squeeze_epochs": 1, "label_epochs": 1, "observers": []}
    run = begin_run(tmp_path_factory.mktemp("fuzz"), feature_networks=["test_resnet"], **changes)
    for stage in ("teachers", "labels"):
        pipeline.execute(run, stage)
    return run


@MANY
@given(spoilt())
def test_marker(made: Run, spoil: Spoil) -> None:
    (unit,) = pipeline.stage_units(made, "labels")
    path = made.file(unit.marker)
    good = path.read_bytes()
    try:
        path.write_bytes(spoil(good))
        state = made.inspect(unit)
        same = files.read_json(path) == json.loads(good)
    finally:
        path.write_bytes(good)
    assert state.state == ("done" if same else "damaged")


@MANY
@given(spoilt())
def test_label_file(made: Run, spoil: Spoil) -> None:
    path = made.file(LABELS)
    good = path.read_bytes()
    (unit,) = pipeline.stage_units(made, "labels")
    try:
        path.write_bytes(spoil(good))
        same = path.read_bytes() == good
        whole = LabelStore(made, "random_real").has(0)
        state = made.inspect(unit).state
        if not same:
            store = LabelStore(made, "random_real")
            complaint = complaint_of(lambda: store.load(0, torch.device("cpu"), count=20))
            assert str(path) in (complaint or str(path))
    finally:
        path.write_bytes(good)
    assert state == ("done" if same else "damaged")
    assert not whole or same or equal_content(good, spoil(good))


def equal_content(one: bytes, other: bytes) -> bool:
    """Return whether two label files say the same: a header may be spaced in other ways."""
    mine, theirs = safetensors.torch.load(one), safetensors.torch.load(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


@MANY
@given(spoilt())
def test_config(made: Run, spoil: Spoil) -> None:
    path = made.file("config.yaml")
    good = path.read_bytes()
    try:
        path.write_bytes(spoil(good))
        complaint = complaint_of(lambda: Run.open(made.path))
        assert re.search(f"{re.escape(str(path))}|recipe|protocol|^$", complaint)
    finally:
        path.write_bytes(good)


@MANY
@given(spoilt())
def test_preset(tmp_path: Path, spoil: Spoil) -> None:
    path = tmp_path / "mine.yaml"
    good = (Path(__file__).parents[2] / "notebooks/presets/digits.yaml").read_bytes()
    path.write_bytes(spoil(good))
    complaint_of(lambda: load_settings(str(path)))


@MANY
@given(spoilt())
def test_weights_and_their_note(made: Run, tmp_path: Path, spoil: Spoil) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(spoil(made.file("teachers/test_resnet.safetensors").read_bytes()))
    for read in (read_weights, read_note):
        complaint = complaint_of(lambda read=read: read(path))
        assert str(path) in (complaint or str(path))


@MANY
@given(spoilt())
def test_events(made: Run, spoil: Spoil) -> None:
    path = made.file("events/labels.jsonl")
    good = path.read_bytes()
    try:
        path.write_bytes(spoil(good))
        assert all(isinstance(event, dict) for event in made.events("labels"))
    finally:
        path.write_bytes(good)


@MANY
@given(spoilt())
def test_lease(tmp_path: Path, spoil: Spoil) -> None:
    path = tmp_path / "lease.json"
    owner = asdict(Owner.here())
    path.write_bytes(spoil(files.json_bytes(owner)))
    read = Owner.read(path)
    # It has just been written; a number that was spoilt may be of no living process.
    assert is_alive(path) or read not in {None, Owner(**owner)}


@MANY
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=9))
def test_class_order(made: Run, value: Any) -> None:
    path = made.file("classes.json")
    good = path.read_bytes()
    try:
        files.write_json(path, value)
        with pytest.raises(PrismError, match="damaged"):
            made.read_classes()
    finally:
        path.write_bytes(good)
