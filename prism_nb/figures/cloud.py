"""Images as points of a feature space, and maps of them in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from prism_nb.absent_units import absent
from prism_nb.artifacts.images import load_some
from prism_nb.data import ImageDataset, open_dataset
from prism_nb.device import own_threads
from prism_nb.diversity.geometry import directions
from prism_nb.diversity.memory import MEMORY
from prism_nb.errors import UsageError
from prism_nb.image_tables import image_table
from prism_nb.pipeline import class_count
from prism_nb.plans.diversity import REFERENCE
from prism_nb.plans.synthesis import method_units
from prism_nb.run import Run
from prism_nb.teachers.pool import load_teacher

MOST_POINTS = 3000
REAL_BEHIND = 50  # real images per class behind the others on a map
UMAP_NEIGHBOURS = 15
_SEED = 0
MAPS = {"pca": "PCA", "umap": "UMAP"}


@dataclass(frozen=True)
class Cloud:
    """Images and their features.

    Attributes:
        table: `method`, `class` and `slot` of each point.
        pixels: uint8 [n, 3, S, S].
        features: Of length 1, float64 [n, d].
        there: Points that there would be without sub-sampling.
    """

    table: pd.DataFrame
    pixels: Tensor
    features: Tensor
    there: int

    @property
    def words(self) -> str:
        """How many points there are, and of how many."""
        count = len(self.table)
        return f"{count} of {self.there} images" if count < self.there else f"{count} images"


def cloud(
    run: Run,
    network: str,
    methods: Sequence[str],
    classes: Sequence[int],
    *,
    most: int = MOST_POINTS,
    behind: int = REAL_BEHIND,
) -> Cloud:
    """Look at images of methods, the real ones first, with one network.

    Where they are too many, every set gives equally many, drawn without repetition: methods with
    equally many images give the same classes and slots. The draw is the same every time.

    Args:
        run: The run.
        network: Whose features are used.
        methods: The sets; `plans.diversity.REFERENCE` for real images.
        classes: The classes.
        most: Points at most.
        behind: Real images per class, where they shall be more than the methods have; those of
            the reference come first.

    Raises:
        PrismError: The network is not trained, or an image cannot be read.
        UsageError: There is no image at all.
    """
    every = {name: _members(run, name, classes, behind) for name in methods}
    every = {name: members for name, members in every.items() if members}
    if not every:
        units = [u for name in methods for u in method_units(run, name, class_count(run))]
        raise UsageError(absent(run, units, "no images of these methods yet: run notebook 02"))
    chosen = {n: some(members, most // len(every)) for n, members in every.items()}
    if sum(map(len, every.values())) <= most:
        chosen = every
    dataset = open_dataset(run.settings)
    pixels = torch.cat([load_some(run, n, dataset, members) for n, members in chosen.items()])
    rows = [(name, *member) for name, members in chosen.items() for member in members]
    table = pd.DataFrame(rows, columns=["method", "class", "slot"])
    features = MEMORY.seen(load_teacher(run, network), pixels, dataset)
    return Cloud(table, pixels, directions(features), sum(map(len, every.values())))


def some(members: Sequence[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    """Return at most so many, in their order; which, their number alone decides."""
    if len(members) <= most:
        return list(members)
    places = np.random.default_rng(_SEED).choice(len(members), most, replace=False)
    return [members[place] for place in sorted(places)]


def project(features: Tensor, kind: str) -> np.ndarray:
    """Bring features into the plane.

    Args:
        features: float64 [n, d], of length 1.
        kind: `pca` (the two directions of largest variance) or `umap` (McInnes et al. 2018,
            cosine distance, 15 neighbours, a fixed seed).

    Returns:
        float64 [n, 2].

    Raises:
        UsageError: There are too few images, or their features are not finite.
    """
    values = features.numpy()
    if not np.isfinite(values).all():
        raise UsageError("features are not finite or all zero, so there is no map of them")
    least = {"pca": 2, "umap": 5}[kind]
    if len(values) < least:
        raise UsageError(
            f"{MAPS[kind]} needs {least} images at least, and these are {len(values)}; name more "
            "classes or methods"
        )
    return _pca(values) if kind == "pca" else _umap(values)


def _pca(values: np.ndarray) -> np.ndarray:
    from sklearn.decomposition import PCA

    return PCA(2, svd_solver="full").fit_transform(values)


def _umap(values: np.ndarray) -> np.ndarray:
    neighbours = min(UMAP_NEIGHBOURS, len(values) - 1)
    few = len(values) <= 2 * UMAP_NEIGHBOURS  # too few for the spectral start
    with own_threads():  # UMAP's compiler sets those of OpenMP, which PyTorch uses too
        from umap import UMAP  # it takes seconds to load

        fit = UMAP(
            n_neighbors=neighbours,
            metric="cosine",
            init="random" if few else "spectral",
            random_state=_SEED,
            n_jobs=1,
        )
        return fit.fit_transform(values.astype(np.float32)).astype(np.float64)


def _members(run: Run, name: str, classes: Sequence[int], behind: int) -> list[tuple[int, int]]:
    if name == REFERENCE:
        dataset, most = open_dataset(run.settings), max(behind, run.settings.ipc)
        return [(c, slot) for c in classes for slot in range(_real(dataset, c, most))]
    table = image_table(run, name, classes)
    made = table[table["made"]]
    return list(zip(made["class"].to_list(), made["slot"].to_list(), strict=True))


def _real(dataset: ImageDataset, c: int, most: int) -> int:
    return min(len(dataset.of_class("train", c)), most)
