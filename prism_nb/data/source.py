"""Where a dataset comes from, as the settings say it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from prism_nb.errors import UsageError
from prism_nb.settings import Settings


@dataclass(frozen=True)
class Source:
    """What decides a dataset.

    Attributes:
        name: The dataset's name.
        image_size: Side of its images, in pixels.
        data_dir: Its folder; None where none is set.
        class_list: Folder names of the classes to take, in order; all where empty.
        skip_damaged: Whether images that cannot be decoded are left out.
        download: Whether it may be fetched.
        progress: Whether decoding shows a bar; of no account for which dataset it is.
    """

    name: str
    image_size: int
    data_dir: Path | None = None
    class_list: tuple[str, ...] = ()
    skip_damaged: bool = False
    download: bool = False
    progress: bool = field(default=True, compare=False)

    @classmethod
    def of(cls, settings: Settings) -> Source:
        """Return what the settings say."""
        return cls(
            name=settings.dataset,
            image_size=settings.image_size,
            data_dir=Path(settings.data_dir).absolute() if settings.data_dir else None,
            class_list=settings.class_list,
            skip_damaged=settings.skip_damaged,
            download=settings.download,
            progress=settings.progress,
        )

    def folder(self) -> Path:
        """Return the dataset's folder.

        Raises:
            UsageError: None is set, or it is not there.
        """
        if self.data_dir is None:
            raise UsageError(
                f"dataset {self.name} needs data_dir, the folder that holds its images; "
                "set it in the preset, or by --set data_dir=PATH"
            )
        if not self.data_dir.is_dir():
            raise UsageError(
                f"data_dir {self.data_dir} is no folder; name the folder that holds the images of "
                f"dataset {self.name}"
            )
        return self.data_dir
