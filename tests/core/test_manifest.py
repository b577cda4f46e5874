"""The manifest: what several processes write, and where a run was made."""

from __future__ import annotations

import threading

import pytest
import torch

from prism_nb.core.manifest import environment, environment_key
from prism_nb.core.run import Run


def test_the_key_of_an_environment_names_device_and_versions() -> None:
    key = environment_key(torch.device("cpu"))
    assert key.keys() == {"device", "torch", "torchvision", "timm"}
    assert key["device"] == "cpu"
    assert key["torch"].startswith(torch.__version__.partition("+")[0])


def test_stages_add_to_their_own_records(run: Run) -> None:
    run.manifest.record_stage("squeeze", seconds=1)
    run.manifest.record_stage("relabel", seconds=2)
    run.manifest.record_stage("squeeze", units_made=3)
    assert run.manifest.read()["stages"] == {
        "squeeze": {"seconds": 1, "units_made": 3},
        "relabel": {"seconds": 2},
    }


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_manifest_is_empty(run: Run, content: str) -> None:
    (run.path / "manifest.json").write_text(content, encoding="utf-8")
    assert run.manifest.read() == {}


def test_threads_that_write_at_once_lose_nothing(run: Run) -> None:
    def write(name: str) -> None:
        run.manifest.update(notebooks={name: name})
        run.manifest.update(**{name: name})

    names = [f"n{i}" for i in range(16)]
    threads = [threading.Thread(target=write, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    manifest = run.manifest.read()
    assert manifest["notebooks"] == {name: name for name in names}
    assert manifest.items() >= {name: name for name in names}.items()


def test_a_missing_environment_is_todays(run: Run) -> None:
    assert run.manifest.environment() == environment(run.settings)
    other = {**environment(run.settings), "machine": "another one"}
    run.manifest.update(environment=other)
    assert run.manifest.environment() == other
