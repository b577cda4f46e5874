"""What a worker must share with its driver, for their results to be one run's."""

from __future__ import annotations

import platform

from prism_nb import __version__
from prism_nb.errors import PrismError


def versions() -> dict[str, str]:
    """Return the versions of this process: the kit's, Python's and PyTorch's."""
    import torch

    return {
        "prism-nb": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def require_same(worker: dict[str, str], *, where: str) -> None:
    """Check a worker's versions against this process's.

    Args:
        worker: Its `versions`.
        where: Which worker, for the message.

    Raises:
        PrismError: Some differ; each is named.
    """
    mine = versions()
    differing = [
        f"{name} {worker.get(name, 'none')} there, {version} here"
        for name, version in mine.items()
        if worker.get(name) != version
    ]
    if differing:
        raise PrismError(
            f"{where} has other versions than this process: {'; '.join(differing)}. Images of "
            "different versions may differ: install the same ones on every machine"
        )
