"""Readers of what lies on a disk: whatever the bytes, a value, nothing, or one message."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prism_nb.core import fileio
from prism_nb.core.config import load_settings
from prism_nb.core.device import seeded
from prism_nb.core.errors import PrismError
from prism_nb.core.hashing import hash_tensors
from prism_nb.core.lock import Owner, is_alive
from prism_nb.core.manifest import newer_version_message
from prism_nb.core.recipe import make_recipe
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import chosen_compile
from prism_nb.core.yaml_io import read_yaml
from prism_nb.evaluation.label_store import LabelStore
from prism_nb.execution import pipeline
from prism_nb.execution.progress import StageProgress
from prism_nb.models.checkpoint import Checkpoint, Stateful, TrainerState
from prism_nb.models.weights import read_metadata, read_weights
from prism_nb.synthesis.loop import _Recovery
from prism_nb.synthesis.micro_batch import MicroBatchedBackward
from prism_nb.synthesis.objective import Objective
from tests.helpers.image_sets import begin_run

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


_RECORDS = ["stages", "labels", "seconds", "peak_memory_bytes", "compile", "choice"]
_NAMES = st.sampled_from([*_RECORDS, "environment", "versions", "prism-nb"])


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
    changes = {"squeeze_epochs": 1, "label_epochs": 1, "holdout_networks": []}
    run = begin_run(tmp_path_factory.mktemp("fuzz"), feature_networks=["test_resnet"], **changes)
    for stage in ("squeeze", "relabel"):
        pipeline.execute(run, stage)
    return run


@MANY
@given(spoilt())
def test_marker(made: Run, spoil: Spoil) -> None:
    (unit,) = pipeline.stage_units(made, "relabel")
    path = made.file(unit.marker)
    good = path.read_bytes()
    try:
        path.write_bytes(spoil(good))
        state = made.units.state(unit)
        same = fileio.read_json(path) == json.loads(good)
    finally:
        path.write_bytes(good)
    assert state.state == ("done" if same else "damaged")


@MANY
@given(spoilt())
def test_label_file(made: Run, spoil: Spoil) -> None:
    path = made.file(LABELS)
    good = path.read_bytes()
    (unit,) = pipeline.stage_units(made, "relabel")
    try:
        path.write_bytes(spoil(good))
        same = path.read_bytes() == good
        whole = LabelStore(made, "random_real").has(0)
        state = made.units.state(unit).state
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
@given(st.text(st.sampled_from("ab1.:-[]{}&*!?|>'\"#%@,~= \n\t"), max_size=60))
def test_yaml(text: str) -> None:
    complaint = complaint_of(lambda: read_yaml(text, where="it"))
    assert re.match("it is not valid YAML: |it: line|$", complaint)
    assert "\n" not in complaint


def training() -> Stateful:
    """Return a network that has learned from one batch."""
    network = torch.nn.Linear(3, 3)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    return TrainerState({"network": network}, optimizer, torch.device("cpu"))


def recovery() -> Stateful:
    """Return images that have been optimised for one step."""
    recipe = make_recipe("prism", {})
    gradient, generator = (
        MicroBatchedBackward(Objective(recipe, {})),
        torch.Generator().manual_seed(1),
    )
    work = _Recovery(torch.randn(4, 3, 8, 8), [0, 0, 2, 2], gradient, recipe, generator)
    work.groups[0].grad = torch.randn(2, 3, 8, 8)
    work._optimizer.step()
    return work


@pytest.mark.parametrize("begin", [training, recovery])
@settings(MANY, max_examples=60)
@given(spoil=spoilt())
def test_checkpoint(tmp_path: Path, begin: Callable[[], Stateful], spoil: Spoil) -> None:
    path, progress = tmp_path / "c.safetensors", {"epoch": 3, "rows": [0.1]}
    with seeded(0, torch.device("cpu")):
        kept, work = begin(), begin()
        Checkpoint(path, "it", every=0).offer(kept, progress)
        path.write_bytes(spoil(path.read_bytes()))
        expected, before = hash_tensors(kept.tensors()), hash_tensors(work.tensors())
        found = Checkpoint(path, "it").restore(work)
        state = hash_tensors(work.tensors())
    assert (found, state) in [(progress, expected), (None, before)]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=9,
)


@MANY
@given(st.dictionaries(_NAMES, _VALUES))
def test_manifest(made: Run, manifest: dict[str, Any]) -> None:
    path = made.file("manifest.json")
    good = path.read_bytes()
    try:
        path.write_text(json.dumps(manifest))
        stage = made.manifest.stage("relabel")
        assert chosen_compile(made) in {"eager", "compiled"}
        assert isinstance(newer_version_message(made.manifest.read()), str | None)
    finally:
        path.write_bytes(good)
    assert isinstance(stage.get("peak_memory_bytes", 0), int)
    assert stage.get("seconds", 0.0) >= 0


@MANY
@given(spoilt())
def test_weights_and_their_note(made: Run, tmp_path: Path, spoil: Spoil) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(spoil(made.file("teachers/test_resnet.safetensors").read_bytes()))
    for read in (read_weights, read_metadata):
        complaint = complaint_of(lambda read=read: read(path))
        assert str(path) in (complaint or str(path))


@MANY
@given(spoilt())
def test_events(made: Run, spoil: Spoil) -> None:
    path = made.file("events/labels.jsonl")
    good = path.read_bytes()
    try:
        path.write_bytes(spoil(good))
        for event in made.events.read("relabel"):
            assert time.localtime(event.get("time", 0))
            StageProgress(1, lambda share, _: None)(event)
    finally:
        path.write_bytes(good)


@MANY
@given(spoilt())
def test_lease(tmp_path: Path, spoil: Spoil) -> None:
    path = tmp_path / "lease.json"
    owner = asdict(Owner.here())
    path.write_bytes(spoil(fileio.json_bytes(owner)))
    read = Owner.read(path)
    # It has just been written; a number that was spoilt may be of no living process.
    assert is_alive(path) or read not in {None, Owner(**owner)}


@MANY
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=9))
def test_class_order(made: Run, value: Any) -> None:
    path = made.file("classes.json")
    good = path.read_bytes()
    try:
        fileio.write_json(path, value)
        with pytest.raises(PrismError, match="damaged"):
            made.read_classes()
    finally:
        path.write_bytes(good)
