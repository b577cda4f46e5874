"""Tables, saved figures and contact sheets hold what they are given."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image

from prism_nb.core.run import Run
from prism_nb.viz.html import (
    NOTEBOOK_FOLDER,
    contact_sheet,
    file_link,
    folder_link,
    save_figure,
    table_html,
    thumbnails,
)

FRAME = pd.DataFrame({"method": ["prism", "sre2l"], "student": "a", "mean": [90.0, 70.0]})


def test_tables_escape_names_and_dash_missing_numbers() -> None:
    index = pd.Index(["<b>", "y", "z"], name="name")
    html = table_html(pd.DataFrame({"value": [1234.56, 0.12345, float("nan")]}, index=index))
    assert "<b>" not in html
    assert re.findall("<td>(.*?)</td>", html) == ["1,234.6", "0.1", "–"]
    assert 'left">&lt;b&gt;<' in html


def test_numbers_of_a_quantity_have_equally_many_decimals_and_text_is_on_the_left() -> None:
    table = pd.DataFrame(
        {
            "kind": ["a", "b"],
            "small": [0.4, 0.784],
            "share %": [100.0, 7.25],
            "count": [373658, 1040],
            "of seeds": [3.0, float("nan")],
            "cells": ["82.0 ± 2.8 ●", "–"],
        }
    )
    html = table_html(table)
    cells = re.findall(r"<td( style=\"text-align: left\")?>(.*?)</td>", html)
    assert [text for style, text in cells if style] == ["a", "b"]
    numbers = [text for style, text in cells if not style]
    assert numbers[:5] == ["0.400", "100.0", "373,658", "3", "82.0 ± 2.8 ●"]
    assert numbers[5:] == ["0.784", "7.2", "1,040", "–", "–"]
    html = table_html(pd.DataFrame({"difference": [-1e-9, 1.25]}))
    assert re.findall("<td>(.*?)</td>", html) == ["0.00", "1.25"]
    index = pd.Index(["cosine", "recognised %"], name="measure")
    html = table_html(pd.DataFrame({"prism": [0.4, 32.0], "real": [0.784, 100.0]}, index))
    assert re.findall("<td>(.*?)</td>", html) == ["0.400", "0.784", "32.0", "100.0"]


def test_tables_show_titles_of_names_on_every_axis() -> None:
    wide = FRAME.pivot_table("mean", "student", "method")
    for table in (FRAME, wide, wide.T):
        html = table_html(table, {"method": {"prism": "PRISM"}})
        assert "PRISM<" in html
        assert ">prism<" not in html
    assert len(re.findall("<th[ >]", table_html(wide))) == 3
    assert wide.columns.name == "method"


def test_tables_keep_named_rows_and_drop_counts() -> None:
    assert "search" in table_html(pd.DataFrame({"cells": [3, 4]}, index=["search", "scenarios"]))
    assert table_html(pd.DataFrame({"chosen": [True, True, False]}).iloc[1:]).count("<td") == 2


def test_a_saved_figure_works_offline(run: Run) -> None:
    path = save_figure(run.path, "accuracy", go.Figure(go.Bar(x=["a"], y=[1])), FRAME)
    assert path == "figures/accuracy.plotly.json"  # the ending that JupyterLab draws
    assert json.loads(run.file(path).read_text())["data"][0]["y"] == [1]
    page = run.file("figures/accuracy.html").read_text()
    assert 'src="plotly.min.js"' in page
    assert "//cdn" not in page
    assert '"showSendToCloud": false' in page
    assert run.file("figures/plotly.min.js").stat().st_size > 1_000_000
    assert pd.read_csv(run.file("figures/accuracy.csv"))["mean"].tolist() == [90.0, 70.0]


def test_links_lead_from_the_notebooks_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone, saved = tmp_path / "clone", tmp_path / "clone/data/runs/a b/figures/x.csv"
    (clone / "notebooks" / "presets").mkdir(parents=True)
    monkeypatch.chdir(clone / "notebooks")
    assert "href='../data/runs/a%20b/figures/x.csv'>" in file_link(saved, "x.csv")
    assert "download" in file_link(saved.with_suffix(".html"), "x.html")
    monkeypatch.setenv(NOTEBOOK_FOLDER, str(clone / "data/runs/a b/notebooks"))
    assert "href='../figures/x.csv'>" in file_link(saved, "x.csv")
    assert "data/runs/a b&quot;" in folder_link(clone / "data/runs/a b")
    assert "button" not in folder_link(tmp_path / "elsewhere")


@pytest.mark.parametrize(("columns", "zoom"), [(2, 4), (40, 3), (120, 1)])
def test_a_contact_sheet_shows_every_pixel_in_its_place(columns: int, zoom: int) -> None:
    images = torch.randint(0, 256, (2 * columns + 1, 3, 7, 7), dtype=torch.uint8)
    found = contact_sheet(images, columns=columns, keys=[])
    assert found.kind == "png"
    sheet = Image.open(io.BytesIO(found.content))
    assert sheet.size == ((columns * 9 - 2) * zoom, (3 * 9 - 2) * zoom)
    pixels = torch.from_numpy(np.array(sheet))[::zoom, ::zoom].permute(2, 0, 1)
    for index, image in enumerate(images):
        top, left = (index // columns) * 9, (index % columns) * 9
        assert torch.equal(pixels[:, top : top + 7, left : left + 7], image)


def test_a_contact_sheet_of_large_images_stays_small() -> None:
    grey = torch.arange(0, 200, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 224, 224)
    images = (grey + torch.randint(-40, 41, grey.shape)).clamp(0, 255).to(torch.uint8)
    found = contact_sheet(images, columns=10, keys=[])
    assert found.kind == "jpeg"
    assert len(found.content) < 2_000_000  # five of them leave a report below 20 MB
    sheet = torch.tensor(np.array(Image.open(io.BytesIO(found.content)))).float()
    assert sheet.shape == (20 * 92 - 2, 10 * 92 - 2, 3)
    for index in (60, 111, 150):  # where no noise is clamped
        top, left = (index // 10) * 92, (index % 10) * 92
        tile = sheet[top + 8 : top + 82, left + 8 : left + 82]
        assert tile.mean().item() == pytest.approx(float(images[index].float().mean()), abs=1.5)


def test_thumbnails_are_means_of_pixels() -> None:
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    for small, image in zip(thumbnails(images, 4), images.double(), strict=True):
        means = image.reshape(3, 4, 2, 4, 2).mean((2, 4)).permute(1, 2, 0).numpy()
        assert np.abs(np.asarray(small) - means).max() <= 1  # rounded in each direction
