"""Workers whose versions differ from the driver's are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.units import Unit
from prism_nb.execution import worker
from prism_nb.execution.worker import WorkerTask, run_task


def test_what_differs_is_named_with_the_remedy() -> None:
    mine = worker.worker_versions()
    worker.check_same_versions(mine, where="a worker")
    driver = {**mine, "torch": "1.0", "timm": "0.1", "python": "2.7"}
    del driver["sources of prism-nb"]  # as an older kit's
    with pytest.raises(PrismError) as caught:
        worker.check_same_versions(driver, where="a worker on node7")
    said = str(caught.value)
    assert said.startswith("a worker on node7 has other versions than the run's driver: ")
    assert f"torch {mine['torch']} there, 1.0 with the driver" in said
    assert f"timm {mine['timm']} there, 0.1 with the driver" in said
    assert f"sources of prism-nb {mine['sources of prism-nb']} there, none with the driver" in said
    assert "torchvision" not in said
    assert "; prism-nb " not in said
    assert "install the same ones on every machine" in said


def test_sources_decide_and_nothing_else_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_PACKAGE", tmp_path)

    def digest(**contents: str) -> str:
        for name, content in contents.items():
            (tmp_path / name.replace("_", ".")).write_text(content)
        return worker._sources.__wrapped__()

    first = digest(a_py="1\n", b_py="2\n")
    assert digest(c_yaml="3\n", b_pyc="4") == first
    assert digest(a_py="1\n2\n", b_py="") != first
    assert digest(a_py="1\n", b_py="2\n") == first


def test_a_task_of_another_version_is_not_begun(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = Unit(stage="relabel", name="u", marker="labels/u.json", fingerprint="b")
    with monkeypatch.context() as patch:
        patch.setattr(
            worker, "worker_versions", lambda: {**worker.worker_versions(), "prism-nb": "9"}
        )
        task = WorkerTask.of(run, [unit], "json:none")
    report = run_task(WorkerTask(task.run, {"no": "setting"}, task.units, task.work, task.versions))
    assert report.made == 0
    assert "prism-nb " in report.error
    assert "9 with the driver" in report.error
    assert not list(run.events("relabel"))
