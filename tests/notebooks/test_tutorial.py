"""The tutorial's way from a raw folder to the report, as its page has it."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.helpers.command import ROOT, environment, execute
from tests.helpers.image_trees import photograph

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text().partition("## 3.")[0]
SMALLER = {"digits": "digits_quick", "image_size=64": "image_size=32"}
SHORTER = (
    *("methods=[prism,random_real]", "teachers=[test_resnet,test_byobnet]", "holdout_networks=[]"),
    *("feature_networks=[test_byobnet]", "students=[test_resnet]", "student_seeds=1"),
    *("squeeze_epochs=1", "label_epochs=4"),
)


def test_the_tutorial_runs_from_a_raw_folder_to_the_report(tmp_path: Path) -> None:
    for theme, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(40):
            image = photograph(number, 70, theme)
            image.save(tmp_path / "photos" / name / f"{number:02d}.jpg", quality=90)
    twice = tmp_path / "photos" / "bee"
    photograph(0, 70, 1).resize((60, 60)).save(twice / "01.jpg")  # held out and trained on

    (_, split), *blocks = re.findall(r"```(\w*)\n(.*?)```", TUTORIAL, re.S)
    command = [sys.executable, "-c", split]
    subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), check=True)
    lines = [shlex.split(line)[1:] for _, block in blocks for line in block.splitlines()]
    check, *others = [[SMALLER.get(word, word) for word in line] for line in lines]

    refused = execute("prism-nb", *check, runs=tmp_path)
    assert refused.returncode == 1
    assert "train/bee/01.jpg = val/bee/00.jpg" in refused.stdout
    (tmp_path / "mine" / "train" / "bee" / "01.jpg").unlink()
    assert execute("prism-nb", *check, runs=tmp_path).returncode == 0

    output = {}
    for words in others:
        shorter = [part for each in SHORTER for part in ("--set", each)]
        result = execute(
            "prism-nb", *words, *(shorter if words[0] in {"plan", "run"} else ()), runs=tmp_path
        )
        assert result.returncode == 0, result.stdout + result.stderr
        output[words[0]] = result.stdout
    assert "chance 33.3 %" in output["results"]
    assert "PRISM" in output["results"]
    report = tmp_path / "first" / "figures" / "report.html"
    assert output["open"].strip() == report.as_uri()
    assert "data:image/png;base64" in report.read_text()
    shown = (tmp_path / "first" / "notebooks" / "01_teacher_pool.ipynb").read_text()
    assert "advice: ipc=3 or less" in shown
