"""The report has a section per result, works offline, and shows titles rather than names."""

import re
from pathlib import Path

import pandas as pd
import pytest

from prism_nb.core.run import Run
from prism_nb.execution import pipeline
from prism_nb.viz import report
from prism_nb.viz.findings import Finding
from prism_nb.viz.html import EncodedImage, Result
from tests.helpers.evaluated_run import evaluated_run


def test_a_report_has_all_results_and_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = evaluated_run(tmp_path)
    known = {"accuracy", "learning", "transfer", "scores", "eval_variants"}
    other = Result(pd.DataFrame({"method": ["random_real"]}), note="<as recorded>")
    results = {
        name: function if name in known else lambda run, **_: other
        for name, function in report.RUN_RESULTS.items()
    }
    monkeypatch.setattr(report, "RUN_RESULTS", results)
    monkeypatch.setattr(report, "image_sheet", lambda run, method: EncodedImage(b"", "png"))
    monkeypatch.setattr(report, "comparison_sheet", lambda run: EncodedImage(b"jpg", "jpeg"))
    monkeypatch.setattr(pipeline, "check", lambda run, stage: None)
    monkeypatch.setattr(report, "_seconds", lambda run, stage: 1.0)  # no other stage has units
    monkeypatch.setattr(report, "tiles", lambda run: [report.Tile("82.0 %", "top-1", "of two")])
    found = [Finding("It leads.", "accuracy"), Finding("It fails.", "nowhere")]
    monkeypatch.setattr(report.findings, "stand_out", lambda run: found)
    page = run.file(report.write_report(run)).read_text()
    for title in ("Accuracy", "Learning curves", "DD-Ranking&#39;s scores", "Teachers"):
        assert re.search(f'<h2 id="([a-z_]+)">{title}</h2>', page)
    ids = set(re.findall(r'id="([a-z_0-9-]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= ids
    assert 'It leads. <a href="#accuracy">Accuracy</a></li>' in page
    assert "It fails.</li>" in page
    assert "PRISM and Random real on digits, 2 images per class" in page
    assert "<b>82.0 %</b>" in page
    assert "82.0 ± 2.8" in page
    assert "epoch 2" in page
    assert ">random_real<" not in page
    assert "&lt;as recorded&gt;" in page
    assert '"showSendToCloud": false' in page
    assert "prefers-color-scheme: dark" in page
    assert report.comparison_path(run).endswith("comparison.jpeg")
    run.file("figures/comparison.jpeg").unlink()
    assert report.comparison_path(run).startswith("deleted: run notebook 06_report")
    assert 'src="http' not in page


@pytest.mark.parametrize("methods", [["prism", "random_real"], ["prism"], ["random_real"]])
def test_tiles_are_of_the_best_optimised_method(
    methods: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = evaluated_run(tmp_path, methods=methods)
    for unit in pipeline.stage_units(run, "synthesis"):
        run.units.finish(unit, paths=[], record={"seconds": 10.0, "images": 20})
    seen = pd.DataFrame({"recognised %": {"real": 95.0, "prism": 32.0, "random_real": 90.0}})
    monkeypatch.setattr(report.tables, "diversity_table", lambda run: seen)
    found = {tile.value: f"{tile.name}; {tile.detail}" for tile in report.tiles(run)}
    title, top1, share = (
        ("PRISM", "82.0", 32) if "prism" in methods else ("Random real", "90.0", 90)
    )
    assert found.pop(f"{top1} %") == f"top-1 of {title}; mean over students; chance is 10 %"
    assert found.pop(f"{share} %").endswith("real images: 95 %")
    assert found.pop("0.5 s").startswith(f"per image of {title}; ")
    gap = {"-8.0 points": "against random real images; 90.0 %"}
    assert found == (gap if len(methods) == 2 else {})


def test_a_title_names_methods_and_counts_the_rest(tmp_path: Path) -> None:
    methods = ["prism", "sre2l", "cda", "random_real"]
    settings = evaluated_run(tmp_path).settings
    run = Run(tmp_path, settings.replace(methods=methods, ipc=1))
    assert report.run_title(run) == "PRISM, SRe2L and 2 more on digits, 1 image per class"
