"""Images above their nearest training images."""

from __future__ import annotations

import pandas as pd
import torch

from prism_nb.artifacts.images import load_some
from prism_nb.data import open_dataset
from prism_nb.figures.sheets import Picture, contact_sheet
from prism_nb.run import Run


def copies_sheet(run: Run, method: str, nearest: pd.DataFrame, *, most: int = 12) -> Picture:
    """Return a picture of a method's images that lie nearest to training images, above those.

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
    members = list(zip(mine["class"].to_list(), mine["slot"].to_list(), strict=True))
    made = load_some(run, method, dataset, members)
    real = dataset.images("train", mine["training image"].to_list())
    return contact_sheet(torch.cat([made, real]), columns=len(mine))
