"""Bad inputs, what each gets, and the page that lists them: docs/refusals.md.

The page is what this test saw: REFUSALS=write makes it anew.
"""

from __future__ import annotations

import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from prism_nb.core import fileio
from prism_nb.core.config import load_settings, parse_assignments
from prism_nb.core.errors import PrismError
from prism_nb.core.recipe import read_recipe_file
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import image_path
from prism_nb.data.distilled import load_images
from prism_nb.data.registry import open_dataset
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.execution.exchange import import_images
from prism_nb.execution.open_run import preflight
from prism_nb.execution.study import StudyFolder, load_study
from prism_nb.models.weights import to_safetensors
from tests.helpers.image_sets import SETTINGS, begin_run, write_set
from tests.helpers.image_sets import picture as file_of_picture
from tests.helpers.image_trees import age, make_tree

PAGE = Path(__file__).parents[1] / "docs" / "refusals.md"
HEAD = """# What is refused, and with which words

Every line is a case of `tests/unit/test_refusals.py`, which tries it and writes this page where
`REFUSALS=write` is set; libraries' own words in it change with their versions. Each ends with one
message and without a stack trace, before any work is lost; in a notebook the message alone is
shown, and `prism-nb` exits with 2 for a request that cannot be meant, with 1 for a run that fails.
"""
Given = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        area: What kind of thing is bad.
        given: It, in words.
        attempt: Gives it to the kit.
        words: What the answer must say.
    """

    area: str
    given: str
    attempt: Given
    words: str


CASES: list[Case] = []


def case(area: str, given: str, words: str) -> Callable[[Given], Given]:
    """List a function as a case."""

    def listed(attempt: Given) -> Given:
        CASES.append(Case(area, given, attempt, words))
        return attempt

    return listed


def setting(given: str, words: str, **changes: Any) -> None:
    """List settings that cannot be."""
    CASES.append(Case("settings", given, lambda _: load_settings("digits_quick", changes), words))


# -- settings ----------------------------------------------------------------------------------

setting("`ipcs: 5`", "did you mean 'ipc'", ipcs=5)
setting('`ipc: "5"`', "ipc: .*integer", ipc="5")
setting("`ipc: true`", "ipc: .*integer", ipc=True)
setting("`ipc: 0`", "ipc: .*greater than or equal to 1", ipc=0)
setting("`ipc: 2.5`", "ipc: .*integer", ipc=2.5)
setting("`image_size: 100000`", "image_size: .*less than", image_size=100_000)
setting("`squeeze_lr: .nan`", "squeeze_lr", squeeze_lr=float("nan"))
setting("`squeeze_lr: -1`", "squeeze_lr: .*greater than 0", squeeze_lr=-1)
setting("`methods: prism`, not a list", "methods: .*list", methods="prism")
setting("`methods: []`", "methods: name at least one", methods=[])
setting("`methods: [prsim]`", "did you mean 'prism'", methods=["prsim"])
setting("`methods: [../prism]`", "methods|recipe", methods=["../prism"])
setting("a teacher named twice", "named twice", teachers=["test_resnet", "test_resnet"])
setting("a primary outside the pool", "primary: .*not in the pool", primary="test_vit")
setting("a holdout network that is a teacher", "also a teacher", holdout_networks=["test_resnet"])
setting("a student with weights", "starts untrained", students=["resnet18@IMAGENET1K_V1"])
setting("`protocol: srel2`", "did you mean 'sre2l'", protocol="srel2")
setting("hard labels with a soft loss", "do not|does not go with", labels="hard")
setting("more epochs than labels", "is more than the", student_epochs=9000)
setting("`eval_variants: [plain]`", "protocol must be among", eval_variants=["plain"])
setting(
    "`eval_variants: [protocol, plan]`", "did you mean 'plain'", eval_variants=["protocol", "plan"]
)
setting(
    "`micro_batch_size` over `batch_size`", "micro_batch_size: .*more than", micro_batch_size=5000
)
setting("`device: gpu`", "is no device", device="gpu")
setting("`backend: dask`", "backend", backend="dask")
setting("a recipe field that is none", "did you mean 'iterations'", recipe={"iteration": 5})
setting("`recipe: {iterations: many}`", "iterations", recipe={"iterations": "many"})
setting("`recipe: {bn_slot_prob: 2}`", "bn_slot_prob", recipe={"bn_slot_prob": 2})
setting("changes to a method that is none", "not among the methods", recipes={"x": {"lr": 1}})
setting("a label teacher never trained", "never trained", label_teachers=["resnet50"])


@case("settings", "`--set ipc`", "name=value")
def _(_: Path) -> object:
    return parse_assignments(("ipc",))


@case("settings", "a preset that is none", "did you mean 'digits'")
def _(_: Path) -> object:
    return load_settings("digit")


# -- files of settings -------------------------------------------------------------------------


def preset(given: str, text: str | bytes, words: str) -> None:
    """List a preset file that cannot be read."""

    def attempt(folder: Path) -> object:
        path = folder / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_settings(str(path))

    CASES.append(Case("preset file", given, attempt, words))


def laughs() -> str:
    """Return a few lines in which each list holds the one before ten times."""
    lines = [f"{a}: &{a} [{', '.join([f'*{b}'] * 10)}]" for b, a in pairwise("abcdefghi")]
    return "\n".join(["a: &a [x]", *lines, "ipc: *i"])


preset("no YAML", "ipc: [1,", "not valid YAML")
preset("a list", "- ipc\n", "must hold lines of")
preset("a key twice", "ipc: 1\nipc: 2\n", "stands twice")
preset("a tag that calls Python", "ipc: !!python/object/apply:os.system [ls]", "not valid YAML")
preset("no text", b"\xff\xfe\x00ipc", "cannot be read|not valid YAML")
preset("nothing", "", "must hold lines of")
preset("a date for a number", "ipc: 2026-01-01", "ipc")
preset("aliases of aliases, 10^9 values", laughs(), "line 2 holds the alias.*write out")
preset("a single alias", "methods: &m [prism]\nteachers: *m\n", "line 2 holds the alias")
preset("more than 1 MiB", "# " + "a" * 2**20, "is larger than 1 MiB.*name a YAML file")
preset("a value of 10,000 letters", "ipc: " + "ab" * 5000, "ipc: .*integer")
preset("a tag that its value does not fit", "ipc: !!bool x", "not valid YAML")
preset("nesting without end", "ipc: " + "[" * 3000, "not valid YAML")


@case("recipe file", "aliases of aliases, 10^9 values", "recipe .*holds the alias.*write out")
def _(folder: Path) -> object:
    fileio.write_text(folder / "mine.yaml", laughs())
    return read_recipe_file(folder / "mine.yaml")


@case("study file", "aliases of aliases, 10^9 values", "study .*holds the alias.*write out")
def _(folder: Path) -> object:
    fileio.write_text(folder / "mine.yaml", laughs())
    return load_study(str(folder / "mine.yaml"))


# -- names and folders of runs -----------------------------------------------------------------


def run_name(given: str, name: str) -> None:
    """List a name that cannot be a run's."""

    def attempt(folder: Path) -> object:
        return open_run_module.open_run(run_name=name, preset="digits_quick", runs_dir=folder)

    CASES.append(Case("run name", given, attempt, "run name"))


run_name("`../other`", "../other")
run_name("`/tmp/other`", "/tmp/other")
run_name("`-rf`", "-rf")
run_name("a name with a line break", "a\nb")
run_name("a name of 300 letters", "a" * 300)


@case("run folder", "none of that name", "did you mean 'first'")
def _(folder: Path) -> object:
    Run.create(folder / "first", load_settings("digits_quick"))
    return open_run_module.load_run(run_name="frist", runs_dir=folder)


@case("run folder", "a `config.yaml` that is damaged", "is damaged")
def _(folder: Path) -> object:
    fileio.write_text(folder / "run" / "config.yaml", "- nothing\n")
    return open_run_module.load_run(run_name="run", runs_dir=folder)


@case("run folder", "a `config.yaml` of aliases of aliases", "holds the alias.*write out")
def _(folder: Path) -> object:
    fileio.write_text(folder / "run" / "config.yaml", laughs())
    return open_run_module.load_run(run_name="run", runs_dir=folder)


@case("run folder", "a `config.yaml` of a newer kit", "unknown setting")
def _(folder: Path) -> object:
    run = Run.create(folder / "run", load_settings("digits_quick"))
    with (run.path / "config.yaml").open("a") as file:
        file.write("hologram: true\n")
    return Run.open(run.path)


@case("run folder", "results without `config.yaml`", "settings are unknown")
def _(folder: Path) -> object:
    fileio.write_text(folder / "run" / "labels" / "prism" / "unit.json", "{}")
    return Run.create(folder / "run", load_settings("digits_quick"))


@case("run folder", "results of other settings", "ipc is 2 in the run, 3 asked for")
def _(folder: Path) -> object:
    run = Run.create(folder / "run", load_settings("digits_quick"))
    fileio.write_text(run.path / "labels" / "prism" / "unit.json", "{}")
    return Run.create(run.path, load_settings("digits_quick", {"ipc": 3}))


@case("run folder", "a study's folder", "is a study's folder")
def _(folder: Path) -> object:
    fileio.write_text(folder / "run" / "study.json", "{}")
    return Run.create(folder / "run", load_settings("digits_quick"))


@case("run folder", "a file in its place", "cannot write|Not a directory")
def _(folder: Path) -> object:
    (folder / "run").write_text("in the way")
    return Run.create(folder / "run", load_settings("digits_quick"))


@case("run folder", "a stage that another process drives", "is being run by process")
def _(folder: Path) -> object:
    run = Run.create(folder / "run", load_settings("digits_quick"))
    with run.locks.stage("squeeze"):
        return pipeline.execute(run, "squeeze")


@case("run folder", "a stage before the one it needs", "is not complete")
def _(folder: Path) -> object:
    run = Run.create(folder / "run", load_settings("digits_quick"))
    run.write_classes(open_dataset(run.settings).class_records())
    return pipeline.execute(run, "synthesis")


@case("run folder", "a `classes.json` that is damaged", "classes.json is damaged")
def _(folder: Path) -> object:
    run = Run.create(folder / "run", load_settings("digits_quick"))
    fileio.write_text(run.path / "classes.json", "{}")
    return run.read_classes()


@case("run folder", "a `classes.json` in another order", "class order differs")
def _(folder: Path) -> object:
    run = Run.create(folder / "run", load_settings("digits_quick"))
    order = open_dataset(run.settings).class_records()
    run.write_classes(order)
    order[0], order[1] = {**order[1], "index": 0}, {**order[0], "index": 1}
    return run.write_classes(order)


@case("study", "one that is none", "ablation|unknown|no study")
def _(folder: Path) -> object:
    return StudyFolder.open("ablations", runs_dir=folder)


# -- folders of images -------------------------------------------------------------------------


def tree(given: str, words: str, **changes: Any) -> Callable[[Given], Given]:
    """List a folder of images that something is done to before it is opened and read."""

    def listed(spoil: Given) -> Given:
        def attempt(folder: Path) -> object:
            root = make_tree(folder / "images")
            spoil(root)
            age(root)
            values = {"dataset": "folder", "data_dir": str(root), "image_size": 16, **changes}
            dataset = open_dataset(load_settings("digits_quick", values))
            for split in ("train", "val"):
                dataset.images(split, range(len(dataset.labels(split))))
            return dataset

        CASES.append(Case("image folder", given, attempt, words))
        return spoil

    return listed


@case("image folder", "`data_dir` not set", "needs data_dir")
def _(_: Path) -> object:
    return open_dataset(load_settings("digits_quick", {"dataset": "folder"}))


@case("image folder", "`data_dir` that is no folder", "is no folder")
def _(folder: Path) -> object:
    values = {"dataset": "folder", "data_dir": str(folder / "none")}
    return open_dataset(load_settings("digits_quick", values))


@case("image folder", "a dataset that is none", "did you mean 'imagenet1k'")
def _(_: Path) -> object:
    return open_dataset(load_settings("digits_quick", {"dataset": "imagenet"}))


@tree("no `train`", "train")
def _(root: Path) -> object:
    return (root / "train").rename(root / "training")


@tree("no `val`", "val")
def _(root: Path) -> object:
    return (root / "val").rename(root / "held")


@tree("a class without images", "ape")
def _(root: Path) -> object:
    return [path.unlink() for path in (root / "train" / "ape").iterdir()]


@tree("a later class without held-out images", r"'bee' \(in val/bee\)")
def _(root: Path) -> object:
    return [path.unlink() for path in (root / "val" / "bee").iterdir()]


@tree("an image beside the class folders", "train, e.g. loose.png")
def _(root: Path) -> object:
    return (root / "train" / "ape" / "ape_0.png").rename(root / "train" / "loose.png")


@tree("a class in one split only", "cat")
def _(root: Path) -> object:
    folder = root / "train" / "cat"
    folder.mkdir()
    return (root / "train" / "ape" / "ape_0.png").rename(folder / "cat.png")


@tree("an image cut off in the middle", "ape_1.png")
def _(root: Path) -> object:
    path = root / "train" / "ape" / "ape_1.png"
    return path.write_bytes(path.read_bytes()[:200])


@tree("text under an image's name", "ape_1.png")
def _(root: Path) -> object:
    return (root / "train" / "ape" / "ape_1.png").write_text("no image")


@tree("an image of no bytes", "ape_1.png")
def _(root: Path) -> object:
    return (root / "val" / "ape" / "ape_1.png").write_bytes(b"")


@tree("an image that would unpack to 20 gigapixels", "bomb.png")
def _(root: Path) -> object:
    return (root / "train" / "ape" / "bomb.png").write_bytes(bomb(140_000))


@tree("a class list with a name that is none", "did you mean 'bee'", class_list=["ape", "beee"])
def _(_: Path) -> object:
    return None


@tree("a class list file that is not there", "cannot be read|none.txt", class_list="none.txt")
def _(_: Path) -> object:
    return None


@case("image folder", "fewer images of a class than asked for", "lower ipc to")
def _(folder: Path) -> object:
    root = make_tree(folder / "images")
    values = {**SETTINGS, "dataset": "folder", "data_dir": str(root), "ipc": 50}
    return preflight(load_settings("digits_quick", values))


@case("image folder", "ImageNet-1K of two classes", "has 2 of ImageNet-1K")
def _(folder: Path) -> object:
    root = make_tree(folder / "images", classes=("n01440764", "n01443537"))
    values = {"dataset": "imagenet1k", "data_dir": str(root), "image_size": 16}
    return open_dataset(load_settings("digits_quick", values))


# -- networks and weights ----------------------------------------------------------------------


def network(given: str, name: str, words: str) -> None:
    """List a teacher that cannot be."""

    def attempt(_: Path) -> object:
        values = {"teachers": ["test_resnet", name]}
        return preflight(load_settings("digits_quick", values))

    CASES.append(Case("network", given, attempt, words))


network("a name that is none", "resnet81", "did you mean .*resnet18")
network("a source that is none", "keras/resnet18", "is no source")
network("weights that are none", "resnet18@IMAGENET1K_V9", "IMAGENET1K_V1")
network("timm's weights that are none", "resnet18.nope", "no weights 'nope'")
network("a network without batch norm", "test_vit", "batch.norm|BN")
network("a network with auxiliary heads", "googlenet", "auxiliary|logits|cannot take")


def weights(given: str, words: str) -> Callable[[Callable[[Path], None]], object]:
    """List a weights file, written by the function, that cannot be taken."""

    def listed(write: Callable[[Path], None]) -> object:
        def attempt(folder: Path) -> object:
            path = folder / ("w.pth" if "pickle" in given else "w.safetensors")
            write(path)
            values = {"teachers": ["test_resnet", f"test_byobnet@{path}"]}
            return preflight(load_settings("digits_quick", values))

        CASES.append(Case("weights", given, attempt, words))
        return write

    return listed


@weights("a file that is not there", "missing|copy the file")
def _(_: Path) -> None:
    return None


@weights("a file cut off in the middle", "w.safetensors")
def _(path: Path) -> None:
    content = to_safetensors(timm.create_model("test_byobnet", num_classes=10).state_dict())
    path.write_bytes(content[: len(content) // 2])


@weights("a file whose header claims more than it is", "w.safetensors")
def _(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{}")


@weights("of another architecture", "are not of")
def _(path: Path) -> None:
    path.write_bytes(to_safetensors(timm.create_model("test_resnet", num_classes=10).state_dict()))


@weights("of 999 classes", "999")
def _(path: Path) -> None:
    path.write_bytes(
        to_safetensors(timm.create_model("test_byobnet", num_classes=999).state_dict())
    )


@weights("no tensors of a network at all", "are not of")
def _(path: Path) -> None:
    safetensors.torch.save_file({"x": torch.zeros(2)}, path)


class Dangerous:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._path,))


@weights("a bare pickle that would run a function", "no weights")
def _(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Dangerous(path.with_name("ran"))}))


@weights("a torch file whose pickle would run a function", "more than tensors|tensors")
def _(path: Path) -> None:
    torch.save({"state_dict": Dangerous(path.with_name("ran"))}, path)


@weights("a torch pickle whose parts are packed a thousand times smaller", "its parts are packed")
def _(path: Path) -> None:
    torch.save({"x": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {part.filename: archive.read(part) for part in archive.infolist()}
    zipped(path, parts, how=zipfile.ZIP_DEFLATED)


@weights("a torch pickle with a view of 4 TB of one value", "claims to be larger")
def _(path: Path) -> None:
    torch.save({"x": torch.zeros(1).expand(10**12)}, path)


# -- images of the run -------------------------------------------------------------------------


def own_image(given: str, words: str) -> Callable[[Callable[[Path], object]], object]:
    """List an image of the run's own that is spoilt before a stage reads it."""

    def listed(spoil: Callable[[Path], object]) -> object:
        def attempt(folder: Path) -> object:
            run = begin_run(folder)
            spoil(run.file(image_path("random_real", 0, 1)))
            return load_images(run, "random_real", open_dataset(run.settings))

        CASES.append(Case("run's image", given, attempt, words))
        return spoil

    return listed


@own_image("one that is gone", "cannot be read.*run synthesis again")
def _(path: Path) -> object:
    return path.unlink()


@own_image("one that is cut off", "cannot be read.*run synthesis again")
def _(path: Path) -> object:
    return path.write_bytes(path.read_bytes()[:60])


@own_image("one of another size", "is 20 x 20, not 16 pixels square; run synthesis again")
def _(path: Path) -> object:
    return path.write_bytes(file_of_picture(1, size=20))


@own_image("one that would unpack to 20 gigapixels", "cannot be read.*run synthesis again")
def _(path: Path) -> object:
    return path.write_bytes(bomb(140_000))


@own_image("one that would unpack to 64 megapixels", "8000 x 8000.*run synthesis again")
def _(path: Path) -> object:
    return path.write_bytes(bomb(8_000))


# -- labels ------------------------------------------------------------------------------------


def labels(given: str, words: str) -> Callable[[Callable[[Path], None]], object]:
    """List a label file that is spoilt before a student reads it."""

    def listed(spoil: Callable[[Path], None]) -> object:
        def attempt(folder: Path) -> object:
            from prism_nb.evaluation.label_store import LabelStore

            changes = {"squeeze_epochs": 1, "label_epochs": 1, "holdout_networks": []}
            run = begin_run(folder, feature_networks=["test_resnet"], **changes)
            for stage in ("squeeze", "relabel"):
                pipeline.execute(run, stage)
            spoil(run.file("labels/random_real/epoch_0000.safetensors"))
            return LabelStore(run, "random_real").load(0, torch.device("cpu"), count=20)

        CASES.append(Case("labels", given, attempt, words))
        return spoil

    return listed


@labels("a file that is gone", "cannot be read")
def _(path: Path) -> None:
    path.unlink()


@labels("a file cut off in the middle", "cannot be read")
def _(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


@labels("of other images", "made from other images")
def _(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(b"prism-nb labels 2") + 24
    content[place : place + 4] = b"beef"
    path.write_bytes(content)


# -- sets and archives of others ---------------------------------------------------------------


def taken(given: str, words: str) -> Callable[[Callable[[Path], Path]], object]:
    """List a set of images that cannot be imported."""

    def listed(write: Callable[[Path], Path]) -> object:
        def attempt(folder: Path) -> object:
            return import_images(
                write(folder),
                run_name="taken",
                preset="digits_quick",
                method="imported",
                runs_dir=folder / "runs",
                changes=SETTINGS,
                resize=False,
            )

        CASES.append(Case("set or archive", given, attempt, words))
        return write

    return listed


def zipped(path: Path, entries: dict[str, bytes], *, how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def whole_set() -> dict[str, bytes]:
    return {
        f"{c:05d}/{c:05d}_{s:04d}.png": file_of_picture(10 * c + s)
        for c in range(10)
        for s in range(2)
    }


def bomb(side: int) -> bytes:
    """Return a PNG that says it has side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


@taken("a folder that is not there", "none")
def _(folder: Path) -> Path:
    return folder / "none"


@taken("a class of fewer images than the others", "class|images")
def _(folder: Path) -> Path:
    root = write_set(folder / "set", "{c:05d}/{c:05d}_{s:04d}.png")
    (root / "00003" / "00003_0001.png").unlink()
    return root


@taken("nine of ten classes", "class|classes")
def _(folder: Path) -> Path:
    return write_set(folder / "set", "{c:05d}/{c:05d}_{s:04d}.png", classes=9)


@taken("images of another size", "size|pixels")
def _(folder: Path) -> Path:
    entries = {name: file_of_picture(1, size=20) for name in whole_set()}
    return zipped(folder / "set.zip", entries)


@taken("an archive that is none", "set.zip")
def _(folder: Path) -> Path:
    path = folder / "set.zip"
    path.write_bytes(b"PK\x03\x04 no archive")
    return path


@taken("an archive that reaches out of itself", r"\.\./")
def _(folder: Path) -> Path:
    return zipped(folder / "set.zip", {**whole_set(), "../../evil.png": file_of_picture(1)})


@taken("an image that would unpack to 20 gigapixels", "00000_0000.png")
def _(folder: Path) -> Path:
    entries = {**whole_set(), "00000/00000_0000.png": bomb(140_000)}
    return zipped(folder / "set.zip", entries)


@taken("an image that is cut off", "00000_0000.png")
def _(folder: Path) -> Path:
    entries = {**whole_set(), "00000/00000_0000.png": file_of_picture(1)[:60]}
    return zipped(folder / "set.zip", entries)


# ----------------------------------------------------------------------------------------------


def answer(attempt: Given, folder: Path) -> str:
    """Return the kit's one message, without what is this machine's or this moment's."""
    with pytest.raises(PrismError) as caught:
        attempt(folder)
    assert not (folder / "ran").exists()
    text = str(caught.value).replace(str(folder), "…")
    text = re.sub(r"process \d+ on \S+(?=;)", "process 1234 on HOST", text)
    return " ".join(re.sub(r"a{50,}", "aaa…", text).split())


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda n: f"{CASES[n].given[:40]}")
def test_bad_input_gets_one_message(number: int, tmp_path: Path) -> None:
    found, each = answer(CASES[number].attempt, tmp_path), CASES[number]
    assert re.search(each.words, found), found
    assert "Traceback" not in found
    if os.environ.get("REFUSALS") == "write":
        lines = {**listed(), (each.area, each.given): cell(found)}
        wanted = [(c.area, c.given) for c in CASES if (c.area, c.given) in lines]
        PAGE.write_text(page([f"| {a} | {g} | {lines[a, g]} |" for a, g in wanted]), "utf-8")
    assert re.search(each.words, listed()[each.area, each.given])


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def page(lines: list[str]) -> str:
    return "\n".join([HEAD, "| what | given | answer |", "|---|---|---|", *lines, ""])


def listed() -> dict[tuple[str, str], str]:
    """Return the page's answers by area and what is given."""
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    rows = [line[2:-2].split(" | ", 2) for line in text.splitlines() if line.startswith("| ")]
    return {(row[0], row[1]): row[2] for row in rows[1:]}


def test_page_lists_these_cases_and_no_others() -> None:
    assert list(listed()) == [(each.area, each.given) for each in CASES]
    assert len(CASES) >= 60
