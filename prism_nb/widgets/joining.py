"""Whether a network can join a pool, tried out before anything is trained."""

from __future__ import annotations

from prism_nb.data import ImageDataset
from prism_nb.teachers.networks import require_fit
from prism_nb.teachers.pretrained import open_pretrained
from prism_nb.teachers.shapes import shapes_of
from prism_nb.teachers.sources import require_sources
from prism_nb.teachers.teacher import require_bn
from prism_nb.units import has_weights


def require_joinable(name: str, dataset: ImageDataset) -> None:
    """Check that a network classifies a dataset's images and has statistics to align.

    Without weights it is tried on shapes alone, so that large networks take no longer.

    Raises:
        UsageError: No such network or weights, no BN layers, or another size or head.
    """
    classes, size = len(dataset.classes), dataset.image_size
    if has_weights(name):
        require_sources([name])
        taken = open_pretrained(name, dataset)
        network, size = taken.network, taken.space.size
    else:
        network = shapes_of(name, classes=classes, image_size=size)
    require_bn(name, network)
    require_fit(name, network, classes=classes, image_size=size)
