"""The gallery turns pages and saves them; without images it shows a note."""

from __future__ import annotations

import pytest
from PIL import Image

from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.core.settings import REFERENCE
from prism_nb.data.registry import open_dataset
from prism_nb.viz.widgets.gallery import Gallery


@pytest.fixture
def gallery(run: Run) -> Gallery:
    """A gallery of a run that has no images but the real ones, three of each class."""
    run = Run.create(run.path.parent / "g", load_settings("digits_quick", {"ipc": 3}))
    run.write_classes(open_dataset(run.settings).class_records())
    return Gallery(run)


def test_pages_turn_and_are_saved(gallery: Gallery) -> None:
    assert gallery.value.classes == (0,)
    gallery.methods.value = (REFERENCE,)
    gallery.classes.value = "all classes"
    gallery.per_page.value = 20
    assert gallery.page_number.value == "page 1 of 2"
    assert gallery.back.disabled
    gallery.forward.click()
    assert gallery.page_number.value == "page 2 of 2"
    assert gallery.forward.disabled
    assert gallery.picture.value.count("data-tile") == 10
    gallery.reverse.value = True
    assert gallery.value.page == 0
    gallery.save.click()
    path = "figures/gallery_all_by_image_index_reversed_page1.png"
    assert f"/{path}'>" in gallery.saved.outputs[0]["data"]["text/html"]
    assert Image.open(gallery._run.file(path)).format == "PNG"  # the fixture's run


def test_what_cannot_be_shown_has_a_reason(gallery: Gallery) -> None:
    gallery.methods.value = ("sre2l",) if "sre2l" in dict(gallery.methods.options) else ("prism",)
    assert "0 of 3 images" in gallery.picture.value
    gallery.save.click()
    assert "Not saved: there is no image" in gallery.status.value
    gallery.classes.value = "<i>"
    assert "no class" in gallery.status.value
    assert "<i>" not in gallery.status.value
    gallery.classes.value = "zero"
    assert gallery.status.value == ""
    gallery.methods.value = ()
    assert "at least one" in gallery.picture.value
