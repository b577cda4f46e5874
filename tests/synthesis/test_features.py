"""Features of tiles against a literal loss, and images that are independent of their batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prism_nb.core.config import load_settings
from prism_nb.core.errors import UsageError
from prism_nb.core.recipe import Recipe, load_recipe
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of, method_units
from prism_nb.data.augment import AugParams
from prism_nb.data.registry import open_dataset
from prism_nb.execution.cost import Use, unit_uses
from prism_nb.execution.pipeline import relative_cost
from prism_nb.execution.preflight import preflight
from prism_nb.models.teacher import Teacher
from prism_nb.models.zoo import build_on_meta
from prism_nb.synthesis import features, init, stage
from prism_nb.synthesis.features import FeatureBackward, cut_tiles, middle_block, middle_features
from prism_nb.synthesis.init import prepare_unit
from prism_nb.synthesis.loop import ImageOptimizer, recover, sample_augmentations
from prism_nb.synthesis.micro_batch import StepInputs
from prism_nb.synthesis.teacher_sampling import TeacherSchedule
from tests.helpers.objectives import LABELS, relative_error, resize
from tests.helpers.teachers import layer_inputs, teacher_of

# Networks, and the layer that the features enter.
NETWORKS = {
    "resnet18": "layer3",
    "mobilenet_v2": "features.9",
    "convnext_atto": "stages.2",
    "vit_tiny_patch16_224": "blocks.6",
    "test_resnet": "layer3",
}
SMALL = "test_resnet"
SIZE = 32
VIEWS = [
    AugParams((0, 0, 32, 32), False, (0, 0), (3, 20, 16, 12)),
    AugParams((-4, 2, 32, 32), True, (0, 0), (0, 0, 9, 16)),
    AugParams((3, -3, 32, 32), False),
]
COUNT = len(VIEWS)


def images_and_real() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(COUNT, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    shape = (COUNT, 4, 3, SIZE, SIZE)
    return images, torch.randn(shape, generator=generator, dtype=torch.float64)


def cim(**changes: object) -> Recipe:
    return load_recipe("cim", {"iterations": 5, **changes})


def backward_of(teacher: Teacher, real: Tensor, size: int = 0) -> FeatureBackward:
    return FeatureBackward({teacher.name: teacher}, real, micro_batch_size=size)


# -- the literal loss ------------------------------------------------------------------------


def literal_view(image: Tensor, view: AugParams) -> Tensor:
    """Shift an image [3, S, S] by whole pixels, zeros coming in; mirror it; cut a box out."""
    padded = functional.pad(image, (SIZE,) * 4)
    top, left = SIZE + view.crop[0], SIZE + view.crop[1]
    shifted = padded[:, top : top + SIZE, left : left + SIZE]
    shifted = shifted.flip(-1) if view.flip else shifted.clone()
    top, left, height, width = view.cutout
    shifted[:, top : top + height, left : left + width] = 0
    return shifted


def literal_loss(
    images: Tensor, real: Tensor, views: Sequence[AugParams], teacher: Teacher
) -> Tensor:
    """Return the loss tile by tile: each alone through the whole network."""
    layer, side = teacher.network.get_submodule(NETWORKS[teacher.name]), SIZE // 2
    total = torch.zeros((), dtype=images.dtype)
    for image, behind, view in zip(images, real, views, strict=True):
        for place, target in enumerate(behind):
            top, left = side * (place // 2), side * (place % 2)
            tile = resize(image[None, :, top : top + side, left : left + side], SIZE, SIZE)[0]
            seen = [literal_view(each, view)[None] for each in (tile, target)]
            a, b = (layer_inputs(teacher.network, [layer], x)[1][0] for x in seen)
            total = total + (a - b.detach()).abs().sum() / a.numel()
    return total


@pytest.mark.parametrize(
    ("name", "size"),  # tiles per pass
    [*[(name, 0) for name in NETWORKS], (SMALL, 1), (SMALL, 8)],
)
def test_value_and_gradient_are_those_of_the_formula(name: str, size: int) -> None:
    teacher, (images, real) = teacher_of(name, double=True), images_and_real()
    leaf = images.clone().requires_grad_()
    expected = literal_loss(leaf, real, VIEWS, teacher)
    expected.backward()
    groups = [each.clone().requires_grad_() for each in images.split([1, 2])]
    losses = backward_of(teacher, real, size)(StepInputs(groups, VIEWS, LABELS[:COUNT], [name]))
    assert losses.keys() == {f"features/{name}"}
    assert losses[f"features/{name}"].item() == pytest.approx(expected.item() / COUNT, rel=1e-9)
    found = torch.cat([group.grad for group in groups])
    assert relative_error(found, leaf.grad) < 1e-9


def test_the_real_image_behind_a_tile_is_the_one_it_was_made_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(init, "load_teacher", lambda run, name: teacher_of(SMALL))
    recipe = {"init": "mosaic", "mosaic_grid": 4}
    values = settings_of(recipe=recipe, image_size=32, batch_size=20)
    run = Run.create(tmp_path / "r", load_settings("digits_quick", values))
    (unit, *_) = method_units(run, "cim", 10)
    images, real = prepare_unit(run, unit).images, init.real_tiles(run, unit)
    assert real.shape == (20, 16, 3, SIZE, SIZE)
    small = functional.interpolate(real.flatten(0, 1), 8, mode="bilinear", antialias=True)
    assert torch.allclose(cut_tiles(images, 4), small, atol=1e-5)


# -- the middle of a network -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "block"),
    [
        *[(f"resnet{depth}", 224, "layer2") for depth in (18, 34, 50)],
        *[("resnet18", 32, "layer2"), ("timm/resnet18", 160, "layer2")],
        ("vit_tiny_patch16_224", 224, "blocks.5"),
        ("vit_b_16", 224, "encoder.layers.encoder_layer_5"),
        ("convnext_tiny", 224, "features.3"),
        ("timm/convnext_atto", 224, "stages.1"),
        ("densenet121", 224, "features.denseblock2"),
        ("swin_t", 224, "features.3"),
        ("regnet_y_400mf", 224, "trunk_output.block2"),
        ("timm/coatnet_0_224", 224, "stages.1"),
        ("mobilenet_v2", 224, "features.8"),
        ("shufflenet_v2_x1_0", 224, "stage2"),
        ("alexnet", 224, "features.8"),  # a chain of layers without blocks
    ],
)
def test_the_middle_is_a_stage_or_block_in_the_second_quarter(
    name: str, size: int, block: str
) -> None:
    network = build_on_meta(name, classes=10, image_size=size)
    found = {module: name for name, module in network.named_modules()}[middle_block(network)]
    assert found == block


@pytest.mark.parametrize("size", [32, 100])  # 100: maps of 25, 13, 7 and 4 pixels
def test_of_resnet18_the_features_enter_layer3(size: int) -> None:
    teacher = teacher_of("resnet18", size=size)
    images = torch.randn(3, 3, size, size)
    _, (expected,) = layer_inputs(teacher.network, [teacher.network.layer3], images)
    assert torch.equal(middle_features(teacher.network, teacher.head_logits, images), expected)


class _Pair(nn.Sequential):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return x, x


def test_networks_without_features_are_refused() -> None:
    images = torch.zeros(2, 3, 4, 4)
    single = nn.Sequential(nn.Flatten(), nn.Linear(48, 10))
    pair = nn.Sequential(_Pair(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)), *[nn.Linear(4, 4)] * 2)
    pair.append(nn.Linear(4, 4))
    for network in (single, pair):
        with pytest.raises(UsageError, match="its middle gives no features to match"):
            middle_features(network, network, images)


# -- the optimization ------------------------------------------------------------------------


def generators(rows: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 + row) for row in rows]


def optimizer_of(rows: Sequence[int], *, size: int = 0, **changes: object) -> ImageOptimizer:
    images, real = images_and_real()
    teacher = teacher_of(SMALL, double=True)
    bound = torch.full((3, 1, 1), 0.1)
    return ImageOptimizer(
        images[list(rows)],
        LABELS[list(rows)],
        backward=backward_of(teacher, real[list(rows)], size),
        schedule=TeacherSchedule(5, ((),), (SMALL,)),
        recipe=cim(**changes),
        pixel_bounds=(-bound, bound),
        generators=generators(rows),
    )


def test_the_optimization_is_adamw_of_the_difference_from_the_mosaic() -> None:
    (images, real), teacher = images_and_real(), teacher_of(SMALL, double=True)
    recipe, draws = cim(weight_decay=0.5), generators(range(COUNT))
    delta = torch.zeros_like(images, requires_grad=True)
    adamw = torch.optim.AdamW([delta], recipe.lr, weight_decay=0.5)
    for step in range(5):
        views = sample_augmentations(recipe, step, COUNT, SIZE, draws)
        adamw.zero_grad()
        literal_loss(images + delta, real, views, teacher).backward()
        adamw.step()
    found = recover(optimizer_of(range(COUNT), weight_decay=0.5))
    assert torch.allclose(found, images + delta.detach(), atol=1e-9)
    assert found.abs().max() > 1  # not clamped


@pytest.mark.parametrize("rows", [[2], [2, 0]])
def test_an_image_is_the_same_in_any_batch_and_micro_batch(rows: list[int]) -> None:
    whole = recover(optimizer_of(range(COUNT)))
    assert torch.allclose(recover(optimizer_of(rows, size=8)), whole[rows], atol=1e-9)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, honest = recover(optimizer_of(range(COUNT))), features.feature_loss

    def cramped(teacher: Teacher, images: Tensor, *args: Any) -> Tensor:
        if len(images) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return honest(teacher, images, *args)

    monkeypatch.setattr(features, "feature_loss", cramped)
    optimizer = optimizer_of(range(COUNT))
    assert torch.allclose(recover(optimizer), expected, atol=1e-9)
    assert optimizer.state_dict()["backward"]["micro_batch_size"] == 6  # of twelve tiles


def test_views_of_an_image_do_not_depend_on_its_unit(tmp_path: Path) -> None:
    found = []
    for number, batch_size in enumerate((7, 20)):
        settings = load_settings("digits_quick", settings_of(batch_size=batch_size))
        run = Run.create(tmp_path / str(number), settings)
        states = {}
        for unit in method_units(run, "cim", 10):
            drawn = [each.initial_seed() for each in stage._generators(run, unit)]
            states |= dict(zip(batch_of(unit).members(), drawn, strict=True))
        found.append(states)
    assert found[0] == found[1]
    assert len(set(found[0].values())) == 20


# -- settings --------------------------------------------------------------------------------


def settings_of(**changes: Any) -> dict[str, Any]:
    own = {"init": "mosaic", "iterations": 200}  # over what the preset sets for all methods
    return {"methods": ["cim"], "teachers": ["test_resnet"], "ipc": 2, "recipe": own, **changes}


def test_a_pool_without_batch_norm_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (init, stage):
        monkeypatch.setattr(module, "load_teacher", lambda run, name: teacher_of(name))
    pool = {"teachers": ["test_vit", "test_convnext"], "primary": "test_vit"}
    changes = {**pool, "logits_only": pool["teachers"], "ipc": 1, "batch_size": 1}
    own = {"init": "mosaic", "iterations": 3, "logits": "round_robin"}
    settings = load_settings("digits_quick", settings_of(**changes, recipe=own))
    preflight(settings)
    run = Run.create(tmp_path / "r", settings)
    (unit, *_) = method_units(run, "cim", 10)
    stage.run_unit(run, unit, lambda event: None)()
    assert run.units.record(unit)["losses"].keys() == {"features/test_vit"}  # of the third step
    assert relative_cost(settings, unit) == 3 * 4 * 0.75
    assert unit_uses(settings, open_dataset(settings), unit) == {
        Use("store"): 1,
        Use("forward", "test_vit"): pytest.approx(1797 * 0.8 / 10, rel=0.2),
        Use("step", "", 1): 3,
        Use("logit", "test_vit", 4, "bn"): 2 * 3,
        Use("logit", "test_convnext", 4, "bn"): 3,
    }


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"init": "real"}, "init does not go with match features; set it to mosaic or patches"),
        ({"logits": "bn_teachers"}, "logits does not .* set it to primary"),
        ({"sizes": [0.5, 1]}, r"sizes does not .* set it to \[1\]"),
        ({"tv_l1": 0.1}, "tv_l1 does not .* set it to 0"),
        ({"mosaic_grid": 1}, "an image of one tile is the real image already"),
        ({"mosaic_grid": 3}, "mosaic_grid 3 does not divide the image size 32"),
        ({"max_scored_images": 7}, "max_scored_images is 7; raise it to 8"),
        ({"mosaic_grid": 4, "ipc": 9}, "needs 144 training images per class"),
    ],
)
def test_what_cannot_be_matched_is_refused(recipe: dict[str, Any], message: str) -> None:
    ipc = recipe.pop("ipc", 2)
    changes = settings_of(recipes={"cim": recipe}, ipc=ipc)
    with pytest.raises(UsageError, match=message):
        preflight(load_settings("digits_quick", changes))
