"""Pick the pool and its primary by hand."""

from __future__ import annotations

import html

import ipywidgets as widgets
from torch import nn

from prism_nb.config import check_settings
from prism_nb.data import open_dataset
from prism_nb.errors import UsageError
from prism_nb.settings import Settings
from prism_nb.strict import write_yaml
from prism_nb.teachers.networks import build_network, require_fit
from prism_nb.teachers.pretrained import open_pretrained
from prism_nb.teachers.sources import require_sources
from prism_nb.teachers.teacher import require_bn
from prism_nb.units import has_weights


class TeacherPicker(widgets.VBox):
    """A list of networks to tick, a primary, and a field to add further networks by name.

    Args:
        settings: What it starts from; `value` is equal to them until touched.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        wide = {"width": "420px"}
        style = {"description_width": "110px"}
        self.pool = widgets.SelectMultiple(
            options=settings.teachers,
            value=settings.teachers,
            description="Pool",
            rows=8,
            layout=wide,
            style=style,
        )
        self.primary = widgets.Dropdown(
            options=settings.teachers,
            value=settings.primary,
            description="Primary",
            layout=wide,
            style=style,
        )
        self.name = widgets.Text(
            placeholder="a torchvision or timm name",
            description="Add a network",
            layout=wide,
            style=style,
        )
        self.add = widgets.Button(description="Add", tooltip="Try the network out and list it")
        self.status = widgets.HTML()
        super().__init__(
            [self.pool, self.primary, widgets.HBox([self.name, self.add]), self.status]
        )
        self.pool.observe(self._pool_changed, names="value")
        self.primary.observe(lambda _: self._refresh(), names="value")
        self.add.on_click(lambda _: self._add())
        self._refresh()

    @property
    def value(self) -> Settings:
        """The run's settings with the picked teachers.

        Raises:
            UsageError: The pick is incomplete or contradicts other settings.
        """
        values = {**self._settings.plain(), **self._picked()}
        return check_settings(values, where="the teacher picker")

    def _picked(self) -> dict[str, object]:
        return {"teachers": list(self.pool.value), "primary": self.primary.value or ""}

    def _pool_changed(self, _: object) -> None:
        self._offer(self.primary.value)
        self._refresh()

    def _offer(self, primary: str | None) -> None:
        """Let the primary be any of the pool; the given one where it is in it, else the first."""
        pool = self.pool.value
        self.primary.options = pool
        self.primary.value = primary if primary in pool else next(iter(pool), None)

    def _add(self) -> None:
        name = self.name.value.strip()
        try:
            require_bn(name, self._tried(name))
        except UsageError as error:
            self._say(str(error), good=False)
            return
        pool, primary = self.pool.value, self.primary.value
        # New options clear the selection, and with it the primary.
        self.pool.options = tuple(dict.fromkeys([*self.pool.options, name]))
        self.pool.value = tuple(dict.fromkeys([*pool, name]))
        self._offer(primary)
        self.name.value = ""

    def _tried(self, name: str) -> nn.Module:
        """Return a network that classifies the dataset's images, with its weights if it has any."""
        dataset = open_dataset(self._settings)
        classes, size = len(dataset.classes), dataset.image_size
        if has_weights(name):
            require_sources([name])
            taken = open_pretrained(name, dataset)
            network, size = taken.network, taken.space.size
        else:
            network = build_network(name, classes=classes, image_size=size)
        require_fit(name, network, classes=classes, image_size=size)
        return network

    def _refresh(self) -> None:
        try:
            self.value  # noqa: B018 (raises where the pick cannot be used)
        except UsageError as error:
            self._say(str(error), good=False)
            return
        text = write_yaml(self._picked())
        self._say("Ready. The next cell uses these; in a preset they read:", good=True, code=text)

    def _say(self, text: str, *, good: bool, code: str = "") -> None:
        mark = "✓" if good else "Not usable:"
        block = f"<pre>{html.escape(code)}</pre>" if code else ""
        self.status.value = f"<p>{mark} {html.escape(text)}</p>{block}"
