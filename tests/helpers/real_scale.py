"""The factor that `bn_normalize: real` gives MobileNetV2 in `imagenet_balance`, on photographs.

python -m tests.helpers.real_scale
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch

from prism_nb.core.config import load_settings
from prism_nb.data.registry import open_dataset
from prism_nb.models.pool import load_teacher
from prism_nb.synthesis.objective import bn_loss_scales, build_stat_matcher
from tests.helpers.wheel_files import squeezed, write_photographs

HEADLESS = "mobilenetv2_100@wheel"


def real_scales(photographs: Path, folder: Path) -> list[float]:
    """Return the factor on all 20 photographs, then on six random batches of a unit's size."""
    preset = load_settings("imagenet_balance")
    same = {"bn_only": [HEADLESS], "image_size": preset.image_size, "resample": preset.resample}
    run = squeezed(photographs, folder, list(preset.teachers), **same)
    recipe = preset.recipe_of("sum_01").model_copy(update={"bn_normalize": "real"})
    matchers = [build_stat_matcher(load_teacher(run, name), recipe) for name in preset.teachers]
    dataset, generator = open_dataset(run.settings), torch.Generator().manual_seed(0)
    images = dataset.normalize(dataset.images("val", range(20)))
    draws = [torch.randperm(20, generator=generator)[: preset.batch_size] for _ in range(6)]
    return [
        bn_loss_scales(recipe, matchers[0], matchers, lambda x=batch: x)[HEADLESS]
        for batch in (images, *(images[draw] for draw in draws))
    ]


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        write_photographs(Path(name))
        all_images, *batches = real_scales(Path(name), Path(name) / "run")
    low, high = min(batches), max(batches)
    click.echo(f"20 photographs: {all_images:.1f}; batches of a unit: {low:.1f} to {high:.1f}")
