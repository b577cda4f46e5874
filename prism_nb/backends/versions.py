"""What a worker must share with its driver, for their results to be one run's."""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

from prism_nb import __version__
from prism_nb.errors import PrismError

_PACKAGE = Path(__file__).parents[1]
_DECIDING = ("timm", "torchvision")  # beside PyTorch: networks, and how images are changed


def versions() -> dict[str, str]:
    """Return what of this process decides results: the kit, its sources, Python and libraries."""
    import torch

    return {
        "prism-nb": __version__,
        "sources of prism-nb": _sources(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: _version(package) for package in _DECIDING},
    }


def require_same(driver: dict[str, str], *, where: str) -> None:
    """Check this process's versions against its driver's.

    Args:
        driver: The driver's `versions`.
        where: Who this is, for the message.

    Raises:
        PrismError: Some differ; each is named.
    """
    mine = versions()
    differing = [
        f"{name} {mine.get(name, 'none')} there, {driver.get(name, 'none')} with the driver"
        for name in {**mine, **driver}
        if mine.get(name) != driver.get(name)
    ]
    if differing:
        raise PrismError(
            f"{where} has other versions than the run's driver: {'; '.join(differing)}. Images of "
            "different versions may differ: install the same ones on every machine, end jobs that "
            "still wait from before an upgrade, and run the same command again"
        )


@cache
def _sources() -> str:
    """Return a digest of the kit's modules: two checkouts may bear one version."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        content = path.read_bytes()
        digest.update(
            f"{path.relative_to(_PACKAGE).as_posix()}\n{len(content)}\n".encode() + content
        )
    return digest.hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
