"""What a unit begins from can be had again without making its images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from prism_nb.core.config import load_settings
from prism_nb.core.run import Run
from prism_nb.core.unit_plan import batch_of, method_units
from prism_nb.core.units import ImageBatch, Unit, unit_seed
from prism_nb.data.registry import open_dataset
from prism_nb.synthesis import stage
from prism_nb.synthesis.init import initial_images_uint8, prepare_unit


def digits_run(folder: Path, init: str, **changes: Any) -> Run:
    recipe = {"init": init, "iterations": 4}
    wanted = {"image_size": 8, "methods": ["sre2l"], "ipc": 3, "batch_size": 20, "recipe": recipe}
    return Run.create(folder / "r", load_settings("digits_quick", {**wanted, **changes}))


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What the stage hands to its loop, which is left out."""
    handed: list[Tensor] = []

    def no_loop(
        run: Run, unit: Unit, recipe: Any, initial: Tensor, *rest: Any
    ) -> tuple[Tensor, dict[str, Any]]:
        handed.append(initial.clone())
        return torch.zeros_like(initial), {}

    monkeypatch.setattr(stage, "_recover", no_loop)
    return handed


@pytest.mark.parametrize("init", ["noise", "real", "real_random"])
def test_the_pictures_are_what_the_loop_begins_with(
    tmp_path: Path, begun: list[Tensor], init: str
) -> None:
    run = digits_run(tmp_path, init)
    units = method_units(run, "sre2l", 10)
    for unit in units:
        stage.run_unit(run, unit, lambda event: None)
    dataset = open_dataset(run.settings)
    given = {
        member: image
        for unit, images in zip(units, begun, strict=True)
        for member, image in zip(batch_of(unit).members(), images, strict=True)
    }
    assert len(given) == 30
    # Across units, and not in their order.
    wanted = [(7, 2), (0, 0), (7, 1), (3, 2)]
    shown = initial_images_uint8(run, "sre2l", wanted)
    for picture, member in zip(shown, wanted, strict=True):
        levels = (given[member] * torch.tensor(dataset.std).view(3, 1, 1)) + torch.tensor(
            dataset.mean
        ).view(3, 1, 1)
        expected = (levels * 255).round().clamp(0, 255)
        assert torch.equal(picture.float(), expected)


def test_noise_is_the_units_own(tmp_path: Path) -> None:
    run = digits_run(tmp_path, "noise")
    (first, *_) = method_units(run, "sre2l", 10)
    batch = batch_of(first)
    seed = unit_seed(
        run.settings.replicate_seed, "synthesis", "sre2l", *batch.image_indices, *batch.classes
    )
    drawn = torch.randn(
        len(batch.members()), 3, 8, 8, generator=torch.Generator().manual_seed(seed)
    )
    found = prepare_unit(run, first)
    assert torch.equal(found.images, drawn)
    assert found.seed == seed


def test_the_generator_goes_on_where_the_initial_images_left_it(tmp_path: Path) -> None:
    run = digits_run(tmp_path, "noise")
    (first, *_) = method_units(run, "sre2l", 10)
    found = prepare_unit(run, first)
    count = len(batch_of(first).members()) * 3 * 8 * 8
    generator = torch.Generator().manual_seed(found.seed)
    torch.randn(count // 192, 3, 8, 8, generator=generator)
    assert torch.equal(torch.rand(5, generator=found.generator), torch.rand(5, generator=generator))


def test_real_images_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    run = digits_run(tmp_path, "real")
    for unit in method_units(run, "sre2l", 10):
        every = prepare_unit(run, unit).images
        for place, (c, image_index) in enumerate(batch_of(unit).members()):
            alone = prepare_unit(
                run, unit, ImageBatch((image_index, image_index + 1), (c, c + 1))
            ).images
            assert torch.equal(alone[0], every[place])
