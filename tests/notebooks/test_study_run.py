"""A small study as a user runs it: by command line, killed and continued, and by notebook."""

import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.helpers.command import BIN, environment, execute
from tests.helpers.shared import STUDY

RUNS = {
    "search-one-gvbsm",
    "search-one-prism",
    *(f"{s}-{r}" for s in STUDY["scenarios"] for r in (0, 1)),
}


def images(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.glob("*/synthesis/*/images/*/*.png"))
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "small.yaml").write_text(yaml.safe_dump(STUDY))
    return folder


@pytest.fixture(scope="module")
def killed(runs: Path) -> Path:
    """A study whose first scenario was being made when everything was killed."""
    child = subprocess.Popen(
        [BIN / "prism-nb", "study", "small.yaml", "--workers", "1"],
        env=environment(runs),
        cwd=runs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    limit = time.monotonic() + 300
    while not list((runs / "small").glob("tuned-0/synthesis/*/units/*.json")):
        assert child.poll() is None, child.stderr.read().decode() if child.stderr else ""
        assert time.monotonic() < limit
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    return runs / "small"


@pytest.fixture(scope="module")
def finished(killed: Path, runs: Path) -> subprocess.CompletedProcess[str]:
    result = execute("prism-nb", "study", "small.yaml", "--workers", 2, runs=runs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_every_cell_is_a_run_and_the_page_shows_them(
    finished: subprocess.CompletedProcess[str], killed: Path
) -> None:
    assert {path.parent.name for path in killed.glob("*/config.yaml")} == RUNS
    page = (killed / "study.html").read_text()
    assert "Small &lt;study&gt;" in page
    assert "<study>" not in page
    for title in ("G-VBSM", "PRISM", "Random real", "Tuned", "Plain"):
        assert title in page
    for section in ("Own loss and test loss", "Variance by stage", "Rankings of architectures"):
        assert f">{section}</h2>" in page
    for name in ("students", "images", "pairs", "summary", "search"):
        assert len((killed / f"{name}.csv").read_text().splitlines()) > 1
    notebook = json.loads((killed / "notebooks" / "07_ablation.ipynb").read_text())
    assert not [o for c in notebook["cells"] for o in c.get("outputs", []) if "ename" in o]
    assert "2 of 2 done before" in finished.stdout
    assert "wall time" in finished.stdout


def test_the_tuned_scenario_uses_what_its_search_chose(
    finished: subprocess.CompletedProcess[str], killed: Path
) -> None:
    lines = (killed / "search.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:]]
    for method in ("gvbsm", "prism"):
        mine = [row for row in rows if row["method"] == method]
        (chosen,) = [row for row in mine if row["chosen"] == "✓"]
        assert float(chosen["top1"]) == max(float(row["top1"]) for row in mine)
        config = yaml.safe_load((killed / "tuned-1" / "config.yaml").read_text())
        assert config["recipes"][method]["lr"] == float(chosen["lr"])
        plain = yaml.safe_load((killed / "plain-1" / "config.yaml").read_text())
        assert method not in plain["recipes"]


def test_a_killed_study_ends_with_the_images_of_an_undisturbed_one(
    finished: subprocess.CompletedProcess[str], killed: Path, finished_study: Path
) -> None:
    assert images(killed) == images(finished_study / "small")
    assert len(images(killed)) == 2 * 2 * 3 * 20 + 2 * 2 * 20


def test_replicates_have_other_images_and_the_same_teachers(
    finished: subprocess.CompletedProcess[str], killed: Path
) -> None:
    hashes = images(killed)
    for method in ("gvbsm", "prism", "random_real"):
        first, second = (
            [value for path, value in hashes.items() if f"plain-{r}/synthesis/{method}/" in path]
            for r in (0, 1)
        )
        assert len(first) == len(second) == 20
        # A random real image may come again; one grown from noise may not.
        again = sum(a == b for a, b in zip(first, second, strict=True))
        assert again <= (3 if method == "random_real" else 0)
    weights = {
        path.read_bytes() for path in killed.glob("plain-*/teachers/test_resnet.safetensors")
    }
    assert len(weights) == 1


def test_a_plan_and_a_mistake_write_nothing(runs: Path) -> None:
    planned = execute("prism-nb", "study", "small.yaml", "--name", "planned", "--plan", runs=runs)
    assert planned.returncode == 0
    assert "scenarios" in planned.stdout
    wrong = {**STUDY, "searches": {"one": {"grid": {"lrr": [0.1]}}}}
    (runs / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    refused = execute("prism-nb", "study", "wrong.yaml", runs=runs)
    assert refused.returncode == 2
    assert "did you mean 'lr'" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (runs / "planned").exists()
    assert not (runs / "wrong").exists()
