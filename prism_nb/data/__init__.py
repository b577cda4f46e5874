"""Datasets: real images in a fixed class order, whatever they are stored in."""

from prism_nb.data.base import ClassInfo, ImageDataset, Split
from prism_nb.data.registry import dataset_names, open_dataset, with_content

__all__ = ["ClassInfo", "ImageDataset", "Split", "dataset_names", "open_dataset", "with_content"]
