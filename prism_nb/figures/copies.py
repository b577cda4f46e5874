"""Images above their nearest training images."""

from __future__ import annotations

import pandas as pd
import torch

from prism_nb.artifacts.images import load_set
from prism_nb.data import open_dataset
from prism_nb.figures.sheets import contact_sheet
from prism_nb.run import Run

_WIDTH = 900  # pixels, about


def copies_sheet(run: Run, method: str, nearest: pd.DataFrame, *, most: int = 12) -> bytes:
    """Return a PNG of a method's images that lie nearest to training images, above those.

    Args:
        run: The run.
        method: A method, or `plans.diversity.REFERENCE` for real images.
        nearest: The result of `diversity_tables.nearest_table`.
        most: Pairs that are shown.

    Raises:
        ValueError: No pair of the method is known.
    """
    mine = nearest[nearest["method"] == method].head(most)
    if not len(mine):
        raise ValueError(f"no nearest training image is known for {method!r}")
    dataset = open_dataset(run.settings)
    made, _ = load_set(run, method, dataset)
    rows = torch.tensor((mine["class"] * run.settings.ipc + mine["slot"]).to_list())
    real = dataset.images("train", mine["training image"].to_list())
    zoom = max(1, min(4, _WIDTH // (len(mine) * dataset.image_size)))
    return contact_sheet(torch.cat([made[rows], real]), columns=len(mine), zoom=zoom)
