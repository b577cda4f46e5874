"""`prism_nb/models/architectures.json` from the installed libraries: run as a module."""

import json
from importlib.metadata import version
from pathlib import Path

import prism_nb.models
from prism_nb.models.architectures import list_architectures

FILE = Path(prism_nb.models.__path__[0]) / "architectures.json"


def installed() -> dict[str, dict[str, object]]:
    """Return the version and the sorted architectures of each library."""
    return {
        library: {
            "version": version(library).partition("+")[0],
            "names": sorted(list_architectures(library)),
        }
        for library in ("torchvision", "timm")
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(installed(), indent=0) + "\n")
