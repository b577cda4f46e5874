"""The check of a folder of images: copies, leakage, damaged files, advice, refusals."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from prism_nb.core.errors import UsageError
from prism_nb.data.check import DataCheck, check_folder, find_copies
from prism_nb.data.dataset import DatasetConfig
from tests.helpers.image_trees import make_tree, photograph


def checked(root: Path) -> DataCheck:
    return check_folder(DatasetConfig("folder", 32, root, progress=False))


def compressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return Image.open(buffer)


def test_copies_are_found_through_compression_size_and_brightness() -> None:
    images = [photograph(seed, 96, theme=seed % 3) for seed in range(600)]
    images += [
        compressed(images[7]),
        images[8].resize((64, 64)),
        ImageEnhance.Brightness(images[9]).enhance(0.9),
        *[Image.new("RGB", (40, 40), "white")] * 3,
        images[10].rotate(90),
    ]
    grey = [image.convert("L").resize((8, 8), Image.Resampling.BILINEAR) for image in images]
    found = find_copies(np.stack([np.asarray(each) for each in grey]))
    assert found == [[7, 600], [8, 601], [9, 602], [603, 604, 605]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of photographs with every fault."""
    root = tmp_path / "photos"
    for theme, name in enumerate(("ape", "bee")):
        for split, count in (("train", 70 if name == "ape" else 12), ("val", 4)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                seed = i + (1000 if split == "val" else 0)
                photograph(seed, 80 + i, theme).save(root / split / name / f"{i:02d}.png")
    train, val = root / "train", root / "val"
    compressed(Image.open(train / "ape" / "03.png")).save(val / "ape" / "seen.jpg", quality=70)
    shutil.copy(train / "bee" / "05.png", train / "ape" / "wrong.png")
    shutil.copy(val / "bee" / "00.png", val / "bee" / "twice.png")
    whole = (train / "ape" / "06.png").read_bytes()
    (train / "ape" / "06.png").write_bytes(whole[: len(whole) // 2])
    return root


def test_faults_are_named_with_their_files(photos: Path) -> None:
    found = checked(photos)
    assert [each.files for each in found.leaks] == [("train/ape/03.png", "val/ape/seen.jpg")]
    assert [each.files for each in found.conflicts] == [("train/ape/wrong.png", "train/bee/05.png")]
    assert [each.files for each in found.duplicates] == [("val/bee/00.png", "val/bee/twice.png")]
    assert found.damaged == ("train/ape/06.png",)
    assert found.has_faults
    assert [(c.name, c.train, c.held_out) for c in found.classes] == [
        ("ape", 71, 5), ("bee", 12, 5)
    ]  # fmt: skip
    assert (found.ipc, found.image_size) == (1, 64)
    assert found.sides[0] == 80
    text = "\n".join(found.sentences())
    assert "train/ape/03.png = val/ape/seen.jpg" in text
    assert "small classes, of fewer than 20 training images: bee (12)" in text
    assert "5.9 times" in text


def test_a_check_is_kept_until_a_file_changes(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checked(photos)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded again"))
        assert checked(photos) == before
    path = photos / "train" / "ape" / "06.png"  # overwritten in place
    photograph(6, 86).save(path)
    assert checked(photos).damaged == ()


def test_a_folder_without_order_is_refused_in_one_message(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one = make_tree(tmp_path / "one", ["ape"])
    text = make_tree(tmp_path / "text")
    for path in text.glob("*/*/*.png"):
        path.write_text("no image")
    for root, message in (
        (tmp_path / "empty", "train holds no class folders"),
        (one, "has one class, 'ape'"),
        (text, "no file in .* is an image that can be decoded, e.g. .*ape_0.png"),
    ):
        with pytest.raises(UsageError, match=message):
            checked(root)
