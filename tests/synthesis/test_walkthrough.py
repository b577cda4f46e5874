"""The walk through the method: production's own images and gradients, and nothing is written."""

from pathlib import Path

import pytest
import torch

from prism_nb.core.run import Run
from prism_nb.data.distilled import load_images
from prism_nb.data.registry import open_dataset
from prism_nb.execution import pipeline
from prism_nb.synthesis.walkthrough import VARIANTS, Frame, walk, walked_classes
from tests.helpers.small_run import squeezed_run

OWN = {"prism": {"selection": "all", "early_late_step": 0}}
BN = ("bn/test_resnet", "bn/test_byobnet")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one image per class, by what the walk calls `pool`."""
    folder = tmp_path_factory.mktemp("runs")
    made = squeezed_run(folder, "r", methods=["prism"], ipc=1, recipes=OWN)
    pipeline.execute(made, "synthesis")
    return made


@pytest.fixture(scope="module")
def walks(run: Run) -> dict[str, tuple[Frame, ...]]:
    return {name: walk(run, name) for name in VARIANTS}


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_last_images_are_those_of_the_stage(run: Run) -> None:
    before = files(run.path)
    last = walk(Run(run.path, run.settings), "pool")[-1]
    stored, _ = load_images(run, "prism", open_dataset(run.settings))
    assert len(last.images) == len(walked_classes(run))
    assert torch.equal(last.images, stored)
    assert files(run.path) == before


def test_variants_begin_alike_and_differ_in_the_weights_of_their_bn_terms(
    walks: dict[str, tuple[Frame, ...]],
) -> None:
    logits, primary, pool = (frames[0] for frames in walks.values())
    for other in (logits, primary):
        assert torch.equal(other.images, pool.images)
        same = (other.gradients["logit/test_resnet"], pool.gradients["logit/test_resnet"])
        assert torch.equal(*same)
    assert not any(logits.gradients[term].any() for term in BN)
    assert not primary.gradients[BN[1]].any()
    # r_bn / |T|, with both networks and with one.
    torch.testing.assert_close(primary.gradients[BN[0]], 2 * pool.gradients[BN[0]])
    ends = [frames[-1].images for frames in walks.values()]
    assert not torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[1], ends[2])


def test_frames_are_of_the_whole_walk(walks: dict[str, tuple[Frame, ...]]) -> None:
    for frames in walks.values():
        assert [frame.step for frame in frames] == [0, 1, 4, 9]
        assert frames[-1].losses.keys() == {"logit/test_resnet", *BN}
