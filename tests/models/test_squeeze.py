"""Training on real data: views, optimizers, goes on where it was killed, a batch in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.core.device import seeded
from prism_nb.core.errors import PrismError
from prism_nb.core.run import Run
from prism_nb.core.settings import Settings, Squeeze
from prism_nb.core.unit_plan import network_unit
from prism_nb.data import distilled as training_images
from prism_nb.data.augment import TrainAugmentation
from prism_nb.data.dataset import ImageDataset, Split
from prism_nb.data.distilled import StreamedImages, open_train_images, prefetch
from prism_nb.data.small import Digits
from prism_nb.execution import open_run as open_run_module
from prism_nb.execution import pipeline
from prism_nb.models import squeeze
from prism_nb.models import train as training_module
from prism_nb.models.checkpoint import Checkpoint
from prism_nb.models.train import Trainer, train_loop, train_network

CPU = torch.device("cpu")
PLAN = Squeeze.model_validate({"epochs": 3, "batch": 32, "max_shift": 2})


def replace(plan: Squeeze, **changes: Any) -> Squeeze:
    return plan.model_copy(update=changes)


SGD = replace(PLAN, optimizer="sgd", lr=0.05, weight_decay=5e-4)
VIEWS = {"crop_min": 0.5, "flip": True, "per_image": True}


class Few(ImageDataset):
    """Some training digits, which notes how many are asked for at once."""

    def __init__(self, count: int = 100) -> None:
        whole = Digits(16)
        self.name, self.classes, self.image_size = "few", whole.classes, 16
        self.mean, self.std = whole.mean, whole.std
        self._labels, self._pixels = (
            whole.labels("train")[:count],
            whole.images("train", range(count)),
        )
        self.asked: list[int] = []
        self.kept: list[str] = []

    def labels(self, split: Split) -> np.ndarray:
        return self._labels

    def images(self, split: Split, indices: Sequence[int]) -> Tensor:
        self.asked.append(len(indices))
        return self._pixels[list(indices)]

    def keep(self, split: Split) -> None:
        self.kept.append(split)


def train(
    plan: Squeeze,
    dataset: ImageDataset | None = None,
    *,
    on_step: Callable[[dict[str, Any]], None] = lambda _: None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Tensor]:
    network = train_network(
        "test_byobnet", dataset or Few(), plan, CPU, on_step, checkpoint, seed=5
    )
    return network.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


# -- interrupted -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        replace(PLAN, schedule="cosine", **VIEWS),
        SGD,
        replace(SGD, schedule="cosine", label_smoothing=0.1, **VIEWS),
        replace(SGD, schedule="cosine", crop_min=0.5, flip=True),
    ],
)
def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(
    plan: Squeeze, tmp_path: Path
) -> None:
    path, per_epoch = tmp_path / "c", 100 // 32

    def die(values: dict[str, Any]) -> None:
        if values["step"] > 2 * per_epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(plan, on_step=die, checkpoint=Checkpoint(path, "same", every=0))
    steps: list[int] = []
    resumed = train(
        plan,
        on_step=lambda values: steps.append(values["step"]),
        checkpoint=Checkpoint(path, "same", every=0),
    )
    assert steps == [7, 8, 9]  # the third epoch alone
    assert same(train(plan), resumed)


def test_a_training_of_another_binding_begins_anew(tmp_path: Path) -> None:
    train(PLAN, checkpoint=Checkpoint(tmp_path / "c", "one", every=0))
    steps: list[int] = []
    train(
        PLAN,
        on_step=lambda values: steps.append(values["step"]),
        checkpoint=Checkpoint(tmp_path / "c", "another", every=3600),
    )
    assert steps[0] == 1


SMALL = {"teachers": ["test_resnet"], "holdout_networks": ["test_byobnet"], "squeeze_epochs": 3}


def open_run(folder: Path, name: str, **changes: Any) -> Run:
    values = {**SMALL, "image_size": 16, "squeeze_batch": 256, **changes}
    return open_run_module.open_run(
        run_name=name, preset="digits_quick", runs_dir=folder, changes=values
    )


def test_a_killed_stage_goes_on_and_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = open_run(tmp_path / "a", "whole")
    pipeline.execute(undisturbed, "squeeze")
    monkeypatch.setattr(squeeze, "Checkpoint", partial(Checkpoint, every=0))
    run = open_run(tmp_path / "b", "killed")

    def die(values: dict[str, Any]) -> None:
        if values.get("step", 0) > 2 * (1257 // 256):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.execute(run, "squeeze", die)
    left = list(run.path.glob("teachers/units/*.checkpoint"))
    assert [path.stem for path in left] == ["test_resnet"]
    assert pipeline.plan(run, "squeeze").counts == {"missing": 2}
    seen: list[int] = []
    pipeline.execute(run, "squeeze", lambda e: seen.append(e.get("step", 0)))
    assert min(step for step in seen if step) == 1  # the second network's
    assert next(step for step in seen if step) > 2 * (1257 // 256)
    assert not list(run.path.glob("teachers/units/*.checkpoint"))
    assert not pipeline.check(run, "squeeze").missing
    for name in ("test_resnet", "test_byobnet"):
        weights = [r.file(f"teachers/{name}.safetensors").read_bytes() for r in (undisturbed, run)]
        assert weights[0] == weights[1]


# -- views -----------------------------------------------------------------------------------


def test_without_crops_and_flips_a_batch_is_moved_as_ever() -> None:
    images = torch.randn(3, 3, 8, 8)
    with seeded(4, CPU):
        shown, after = TrainAugmentation(2)(images), torch.rand(())
    with seeded(4, CPU):
        down, right = torch.randint(0, 5, (2,)).tolist()
        assert torch.equal(after, torch.rand(()))  # nothing else has been drawn
    rows = [min(max(i + down - 2, 0), 7) for i in range(8)]
    columns = [min(max(j + right - 2, 0), 7) for j in range(8)]
    assert torch.equal(shown, images[:, :, rows][:, :, :, columns])


def moves(image: Tensor, most: int) -> dict[tuple[int, int, bool], Tensor]:
    """Return every view that a shift and a flip can give of an image [3, S, S]."""
    size, found = image.shape[-1], {}
    for down in range(-most, most + 1):
        for right in range(-most, most + 1):
            rows = [min(max(i + down, 0), size - 1) for i in range(size)]
            columns = [min(max(j + right, 0), size - 1) for j in range(size)]
            moved = image[:, rows][:, :, columns]
            found[down, right, False], found[down, right, True] = moved, moved.flip(-1)
    return found


@pytest.mark.parametrize("per_image", [False, True])
def test_shifts_and_flips_are_whole_pixels_with_the_border_repeated(per_image: bool) -> None:
    images = torch.randn(60, 3, 8, 8)
    with seeded(0, CPU):
        shown = TrainAugmentation(2, flip=True, per_image=per_image)(images)
    seen = []
    for image, view in zip(images, shown, strict=True):
        fits = [k for k, m in moves(image, 2).items() if torch.allclose(m, view, atol=1e-5)]
        assert len(fits) == 1
        seen += fits
    if per_image:
        assert {key[0] for key in seen} == {key[1] for key in seen} == {-2, -1, 0, 1, 2}
        assert 15 < sum(key[2] for key in seen) < 45
    else:
        assert len(set(seen)) == 1


def test_crops_enlarge_boxes_of_the_area_asked_for() -> None:
    size = 32
    ramp = torch.arange(size, dtype=torch.float32).expand(3, size, size)
    both = torch.stack([ramp[0], ramp[0].T, torch.zeros(size, size)])
    with seeded(1, CPU):
        shown = TrainAugmentation(0, crop_min=0.3, per_image=True)(both.expand(80, 3, size, size))
    middle = slice(4, -4)  # where no border is repeated
    wide = shown[:, 0, :, middle].diff(dim=-1)
    high = shown[:, 1, middle].diff(dim=-2)
    assert torch.allclose(wide, wide[:, :1, :1].expand_as(wide), atol=1e-4)
    widths, heights = wide[:, 0, 0] * size, high[:, 0, 0] * size
    areas = widths * heights / size**2
    assert torch.allclose(widths, widths.round(), atol=1e-2)
    assert 0.26 < areas.min() < 0.5
    assert areas.max() <= 1.001
    assert len(widths.round().unique()) > 5


def test_a_batch_shares_one_crop_unless_each_image_has_its_own() -> None:
    images = torch.randn(1, 3, 16, 16).expand(8, 3, 16, 16)
    for per_image in (False, True):
        with seeded(3, CPU):
            shown = TrainAugmentation(1, 0.2, True, per_image)(images)
        assert torch.equal(shown, shown[:1].expand_as(shown)) is not per_image


# -- optimizers and loss ---------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle"])
def test_sgd_is_nesterovs_with_decay_and_the_schedule(schedule: str) -> None:
    torch.manual_seed(0)
    network = nn.Linear(4, 3)
    weights = [p.detach().double().clone() for p in network.parameters()]
    speed = [torch.zeros_like(w) for w in weights]
    inputs, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    course = Trainer(network, replace(SGD, schedule=schedule, lr=0.3), 8, CPU)
    for step in range(8):
        course.step(functional.cross_entropy(network(inputs), targets))
        lr = 0.3 * (1 + math.cos(math.pi * step / 8)) / 2
        momentum = 0.9
        if schedule == "one_cycle":
            lr, momentum = one_cycle(step, 8, 0.3)
        logits = inputs.double() @ weights[0].T + weights[1]
        error = (logits.softmax(1) - functional.one_hot(targets).double()) / 6
        for place, slope in enumerate([error.T @ inputs.double(), error.sum(0)]):
            slope = slope + 5e-4 * weights[place]
            speed[place] = momentum * speed[place] + slope if step else slope
            weights[place] = weights[place] - lr * (slope + momentum * speed[place])
    for mine, wanted in zip(network.parameters(), weights, strict=True):
        assert torch.allclose(mine.detach().double(), wanted, atol=1e-5)


def one_cycle(step: int, steps: int, peak: float) -> tuple[float, float]:
    """Return lr and momentum of Smith and Topin's cycle with torch's published defaults."""
    up = 0.3 * steps - 1
    low, last = peak / 25, peak / 25 / 1e4
    if step <= up:
        share = (1 - math.cos(math.pi * step / up)) / 2
        return low + (peak - low) * share, 0.95 - 0.1 * share
    share = (1 - math.cos(math.pi * (step - up) / (steps - 1 - up))) / 2
    return peak + (last - peak) * share, 0.85 + 0.1 * share


def test_label_smoothing_shares_the_true_class_with_all() -> None:
    logits, labels = torch.randn(5, 4), torch.tensor([0, 3, 2, 1, 0])
    plan = replace(PLAN, label_smoothing=0.2)
    found = training_module._loss(nn.Identity(), logits, labels, plan).item()
    logs = logits.double().log_softmax(1)
    wanted = [
        -sum((0.8 * (c == label) + 0.2 / 4) * logs[i, c].item() for c in range(4))
        for i, label in enumerate(labels.tolist())
    ]
    assert found == pytest.approx(sum(wanted) / 5, abs=1e-6)


def test_half_precision_trains_full_precision_weights_another_way() -> None:
    half, full = train(replace(PLAN, precision="bf16")), train(PLAN)
    assert all(v.dtype == torch.float32 for v in half.values() if v.is_floating_point())
    assert not same(half, full)


def test_diverged_training_names_the_setting() -> None:
    with pytest.raises(PrismError, match="lower squeeze_lr"):
        train(replace(SGD, lr=1e30))


# -- memory ----------------------------------------------------------------------------------


def test_few_images_stay_on_the_device_as_bytes() -> None:
    few = Few()
    images = open_train_images(few, CPU)
    assert few.kept == ["train"]
    assert not isinstance(images, StreamedImages)
    assert images._pixels.dtype == torch.uint8
    rows = torch.tensor([7, 0, 99])
    assert torch.equal(images[rows], few.normalize(few.images("train", [7, 0, 99])))
    assert (len(images), images.size, images.device) == (100, 16, CPU)


@pytest.mark.parametrize("plan", [PLAN, replace(SGD, **VIEWS)])
def test_many_images_are_read_a_batch_at_a_time_with_the_same_result(
    plan: Squeeze, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = train(plan)
    monkeypatch.setattr(training_images, "MAX_RESIDENT_BYTES", 3 * 100 * 16 * 16 - 1)
    few = Few()
    assert isinstance(open_train_images(few, CPU), StreamedImages)
    few.asked.clear()
    streamed = train(plan, few)
    assert set(few.asked) == {32}
    assert len(few.asked) == 3 * (100 // 32)
    assert same(held, streamed)


def test_the_next_part_alone_is_read_ahead_and_all_come_in_order() -> None:
    few = Few()
    images = StreamedImages(few, CPU)
    parts = list(torch.randperm(100, generator=torch.Generator().manual_seed(0)).split(10))
    for number, (part, shown) in enumerate(zip(parts, prefetch(images, parts), strict=True)):
        assert len(few.asked) <= number + 2
        assert torch.equal(shown, few.normalize(few._pixels[part]))
    assert few.asked == [10] * 10


def test_an_error_while_reading_ahead_is_raised() -> None:
    class Broken(Few):
        def images(self, split: Split, indices: Sequence[int]) -> Tensor:
            if 55 in indices:
                raise PrismError("image 55 cannot be decoded")
            return super().images(split, indices)

    parts = list(torch.arange(100).split(10))
    with pytest.raises(PrismError, match="image 55"):
        list(prefetch(StreamedImages(Broken(), CPU), parts))


def test_streamed_images_answer_as_a_tensor_does() -> None:
    few = Few(20)
    images = StreamedImages(few, CPU)
    assert (len(images), images.size) == (20, 16)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    twin = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    twin.load_state_dict(network.state_dict())
    labels, plan = torch.from_numpy(few.labels("train")), replace(PLAN, batch=8)
    for each, shown in ((network, images), (twin, few.normalize(few._pixels))):
        with seeded(1, CPU):
            train_loop(each, shown, labels, plan, lambda _: None)
    assert same(network.state_dict(), twin.state_dict())


# -- settings --------------------------------------------------------------------------------


def test_every_setting_of_the_squeeze_decides_the_weights(tmp_path: Path) -> None:
    settings = open_run(tmp_path, "r").settings
    others = {
        "squeeze_epochs": 4,
        "squeeze_batch": 99,
        "squeeze_optimizer": "sgd",
        "squeeze_lr": 0.5,
        "squeeze_schedule": "cosine",
        "squeeze_weight_decay": 0.5,
        "squeeze_label_smoothing": 0.5,
        "squeeze_max_shift": 1,
        "squeeze_crop_min": 0.5,
        "squeeze_flip": True,
        "squeeze_views": "per_image",
        "squeeze_precision": "bf16",
    }
    assert set(others) == {name for name in Settings.fields() if name.startswith("squeeze_")}
    unit = network_unit(settings, "test_resnet")
    for name, value in others.items():
        changed = settings.replace(**{name: value})
        assert network_unit(changed, "test_resnet").fingerprint != unit.fingerprint, name
