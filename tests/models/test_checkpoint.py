"""Where interrupted work goes on: a state that is whole, or the work as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from prism_nb.core.config import short_hash
from prism_nb.core.hashing import hash_tensors
from prism_nb.models.checkpoint import Checkpoint, TrainerState

KEY = "prism-nb checkpoint 2"
PROGRESS = {"epoch": 3, "rows": [{"loss": 0.1 + 0.2}], 10: "number", 9: None}
Tensors = dict[str, Tensor]


def training(seed: int) -> TrainerState:
    """Return a network that has taken a step."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.randn(4, 6)).square().sum().backward()
    optimizer.step()
    return TrainerState({"network": network}, optimizer, torch.device("cpu"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    Checkpoint(path, "mine", every=0).offer(training(0), PROGRESS)
    return path


def read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        return safetensors.torch.load_file(path), json.loads(file.metadata()[KEY])


def write(path: Path, tensors: Tensors, entry: Any) -> None:
    safetensors.torch.save_file(tensors, path, metadata={KEY: json.dumps(entry)})


def equal(one: Tensors, other: Tensors) -> bool:
    return hash_tensors(one) == hash_tensors(other)


def assert_begins_anew(path: Path) -> None:
    work = training(1)
    before = work.tensors()
    assert Checkpoint(path, "mine").restore(work) is None
    assert equal(work.tensors(), before)


def test_a_whole_state_comes_back(path: Path) -> None:
    work = training(1)
    assert Checkpoint(path, "mine").restore(work) == json.loads(json.dumps(PROGRESS))
    assert equal(work.tensors(), training(0).tensors())


def test_a_state_of_other_work_is_left_alone(path: Path) -> None:
    work = training(1)
    before = work.tensors()
    assert Checkpoint(path, "theirs").restore(work) is None
    assert equal(work.tensors(), before)


def test_a_flipped_bit_of_a_tensor_is_seen(path: Path) -> None:
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    for place in range(begin, len(whole), (len(whole) - begin) // 20):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        assert_begins_anew(path)


NAME = "network/0.weight"
HARMS: dict[str, Callable[[Tensors], object]] = {
    "a network's tensor is gone": lambda tensors: tensors.pop(NAME),
    "an optimizer's tensor is gone": lambda tensors: tensors.pop("optimizer/0/exp_avg"),
    "the random state is gone": lambda tensors: tensors.pop("random/cpu"),
    "one is too many": lambda tensors: tensors.update(other=torch.zeros(2)),
    "another type": lambda tensors: tensors.update({NAME: tensors[NAME].double()}),
    "equal bytes of another type": lambda tensors: tensors.update(
        {NAME: tensors[NAME].view(torch.int32)}
    ),
    "equal bytes of another shape": lambda tensors: tensors.update(
        {NAME: tensors[NAME].reshape(4, 9)}
    ),
    "a shape that broadcasts": lambda tensors: tensors.update({NAME: tensors[NAME][:1].clone()}),
    "a short random state": lambda tensors: tensors.update(
        {"random/cpu": torch.zeros(3, dtype=torch.uint8)}
    ),
    "nothing": lambda tensors: tensors.clear(),
}


@pytest.mark.parametrize("harm", HARMS)
def test_other_tensors_than_were_written_are_not_gone_on_from(path: Path, harm: str) -> None:
    tensors, entry = read(path)
    HARMS[harm](tensors)
    write(path, tensors, entry)
    assert_begins_anew(path)


@pytest.mark.parametrize("harm", [name for name in HARMS if "an optimizer's" not in name])
def test_whole_files_of_another_form_leave_the_work_as_it_was(path: Path, harm: str) -> None:
    tensors, entry = read(path)
    HARMS[harm](tensors)
    stated = {name: entry[name] for name in ("fingerprint", "progress")}
    write(path, tensors, {**stated, "digest": short_hash([stated, hash_tensors(tensors)])})
    assert_begins_anew(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda _: [],
        lambda _: {},
        lambda _: None,
        lambda _: "mine",
        lambda entry: {"fingerprint": "mine", "progress": {}},
        lambda entry: {**entry, "progress": {**entry["progress"], "epoch": 2}},
        lambda entry: {**entry, "progress": []},
        lambda entry: {**entry, "digest": "0" * 16},
        lambda entry: {**entry, "digest": None},
        lambda entry: {**entry, "more": 1},
    ],
)
def test_garbled_metadata_is_not_gone_on_from(path: Path, change: Callable[[Any], Any]) -> None:
    tensors, entry = read(path)
    write(path, tensors, change(entry))
    assert_begins_anew(path)


@pytest.mark.parametrize(
    "metadata", [None, {}, {KEY: "{"}, {KEY: "[" * 10**5}, {"checkpoint": "1"}]
)
def test_metadata_that_is_none_is_not_gone_on_from(path: Path, metadata: Any) -> None:
    safetensors.torch.save_file(read(path)[0], path, metadata=metadata)
    assert_begins_anew(path)


def test_nothing_there_is_not_gone_on_from(tmp_path: Path) -> None:
    assert_begins_anew(tmp_path / "none.safetensors")
    assert_begins_anew(tmp_path)
